"""Pages out of WARC and WET files, as datatrove steps: what is read, what is extracted, and what is kept of it.

Every document that goes no further is counted under `dropped_REASON`, as datatrove's own filters do.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import time
import zlib
from collections.abc import Iterator
from typing import Any

import aiohttp
from datatrove.data import Document, DocumentsPipeline
from datatrove.io import DataFileLike, DataFolderLike, get_datafolder
from datatrove.pipeline.extractors.base import ExtractorSandbox
from datatrove.pipeline.extractors.trafilatura import Trafilatura
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers.base import BaseDiskReader
from datatrove.utils.logging import logger
from datatrove.utils.typeshelper import StatHints

from crossthink.errors import UserError

HTML = ("text/html", "application/xhtml+xml")
BLOCK = 65536
META_BYTES = 4096
"""In which a page names its encoding, if it does."""
PLAIN = "plain"
"""Key of a document's metadata: its text needs no extraction, as it is from a WET file."""
PAUSES_S = (1.0, 4.0, 16.0, 64.0)
"""Before a file is opened again whose server refused, was busy or went away: Common Crawl's asks for patience often."""
NOT_FOUND = 404
LOST = (OSError, aiohttp.ClientError, asyncio.TimeoutError)
"""What fsspec's file systems raise then."""
START_S = 60.0
"""For the extracting process to load its library, which a busy machine may take long for."""

_CHARSET = re.compile(rb"charset=[\"']?([\w-]+)", re.IGNORECASE)
_META = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)
_PROBE = "<html><body><article><h1>Water</h1>{}</article></body></html>".format(
    "<p>Water boils at one hundred degrees Celsius at sea level, and at less on a mountain, as the air is thinner.</p>"
    * 3
)


class PageReader(BaseDiskReader):
    """Web pages of WARC files and texts of WET files, gzipped or not; local, S3 or HTTP, as fsspec has it.

    A file that breaks in the middle gives the pages before, and is counted (`dropped_broken_file`); so is a record
    that the file's end cut off (`dropped_broken_record`). Where the connection breaks, the file is opened again and its
    records before are passed over.

    Args:
        folder: where the files are, or the address that every path of `paths_file` begins with.
        paths_file: one path a line, as Common Crawl's warc.paths; None: every file of the folder.
        max_bytes: of one record; larger ones are dropped.
        limit: pages that a task reads at most; -1: all.
    """

    name = "WARC and WET"
    _requires_dependencies = ["warcio"]

    def __init__(self, folder: DataFolderLike, paths_file: DataFileLike | None, max_bytes: int, limit: int) -> None:
        super().__init__(folder, paths_file, limit, glob_pattern=None if paths_file else "*.w[ae][rt]*")
        self.folder, self.max_bytes = folder, max_bytes

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """See `BaseDiskReader.run`."""
        self.data_folder = get_datafolder(self.folder)  # fsspec's connections do not survive a fork
        yield from super().run(data, rank, world_size)

    def read_file(self, filepath: str) -> Iterator[Document]:
        """See `BaseDiskReader.read_file`. Raises UserError where the file cannot be read, however often it is tried."""
        done, pauses = 0, list(PAUSES_S)
        while True:
            try:
                for reason, document in self._pages(filepath, done):
                    done += 1
                    if document is not None:
                        self.stat_update(StatHints.total, StatHints.forwarded)
                        yield document
                    elif reason:
                        self._drop(reason)
                return
            except LOST as error:
                cause = error.__cause__ or error  # fsspec says of any refusal at first that the file is not there
                if isinstance(error, FileNotFoundError) and getattr(cause, "status", NOT_FOUND) == NOT_FOUND:
                    raise UserError(f"{self._address(filepath)} is not there.") from error
                said = f"{self._address(filepath)} cannot be read ({type(cause).__name__}: {cause})"
                if not pauses:
                    raise UserError(f"{said}, however often it is tried.") from error
                logger.warning(f"{said}; it is tried again in {pauses[0]:g} s.")
                time.sleep(pauses.pop(0))

    def _pages(self, filepath: str, skip: int) -> Iterator[tuple[str, Document | None]]:
        """Records of a file, without the first `skip`, each with its page or why it is none."""
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed

        done = 0
        try:
            with self.data_folder.open(filepath, "rb") as file:
                for record in ArchiveIterator(file):
                    done += 1
                    if done > skip:
                        yield self._page(record, filepath)
        except (ArchiveLoadFailed, EOFError, zlib.error, UnicodeDecodeError) as error:
            logger.warning(f"{self._address(filepath)} is broken after {done} records, which are kept: {error}")
            self._drop("broken_file")

    def _address(self, filepath: str) -> str:
        return self.data_folder.fs.unstrip_protocol(self.data_folder._join(filepath))

    def _drop(self, reason: str) -> None:
        self.stat_update(StatHints.total, StatHints.dropped, f"{StatHints.dropped}_{reason}")

    def _page(self, record: Any, filepath: str) -> tuple[str, Document | None]:
        """A record's page, or why there is none; no reason for records that never hold one."""
        if record.rec_type not in ("response", "conversion"):
            return "", None
        plain = record.rec_type == "conversion"
        if not plain:
            status = record.http_headers.get_statuscode() if record.http_headers else ""
            if not status.startswith("2"):
                return "not_found", None
            if _media_type(record) not in HTML:
                return "not_html", None
        content = record.content_stream().read(self.max_bytes + 1)
        if len(content) > self.max_bytes:
            return "too_large", None
        if _is_cut(record):
            return "broken_record", None
        if not content:
            return "empty", None
        headers = record.rec_headers
        found = {
            "url": headers.get_header("WARC-Target-URI") or "",
            "date": headers.get_header("WARC-Date") or "",
            "crawl_file": filepath,
            PLAIN: plain,
        }
        said = record.http_headers.get_header("Content-Type") or "" if record.http_headers else ""
        name = headers.get_header("WARC-Record-ID") or f"{filepath}#{found['url']}"
        return "", Document(_decoded(content, said), name, metadata=found)


class Extract(Trafilatura):
    """The main text of a page, by Trafilatura in a process of its own, which hostile pages may bring down.

    Raises:
        UserError: Trafilatura extracts nothing from a simple page, so that something that it needs is missing.
    """

    name = "Trafilatura"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout=timeout_s)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """See `PipelineStep.run`."""
        check_extraction()
        with ExtractorSandbox(timeout=START_S) as sandbox:
            sandbox._ensure_process(self.extract)  # loading the library must not count as the first page's time
            sandbox.timeout = self.timeout
            for document in data:
                self.stat_update(StatHints.total)
                with self.track_time():
                    reason = "" if document.metadata[PLAIN] else self._extract(document, sandbox)
                if not reason and not document.text:
                    reason = "no_text"
                if reason:
                    self.stat_update(StatHints.dropped, f"{StatHints.dropped}_{reason}")
                else:
                    self.stat_update(StatHints.forwarded)
                    yield document

    def _extract(self, document: Document, sandbox: ExtractorSandbox) -> str:
        try:
            document.text = sandbox.process_document(document.text, self.extract) or ""
        except TimeoutError:
            return "late"
        except EOFError:
            return "extractor_died"
        return ""


class Language(BaseFilter):
    """Keeps pages in some languages, by py3langid, whose model comes with it.

    Args:
        languages: ISO 639-1 codes.
        least: probability from which a page counts as of its likeliest language.
    """

    name = "Language"
    _requires_dependencies = ["py3langid"]

    def __init__(self, languages: list[str], least: float) -> None:
        super().__init__()
        self.languages = list(languages)
        self.least = least
        self._identifier: Any = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """See `BaseFilter.filter`."""
        if self._identifier is None:  # it is not sent to a job, but loaded there
            from py3langid.langid import MODEL_FILE, LanguageIdentifier

            self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        language, probability = self._identifier.classify(doc.text)
        if language not in self.languages:
            return False, "other_language"
        if probability < self.least:
            return False, "language_unsure"
        doc.metadata["language"] = language
        return True


def check_extraction() -> None:
    """Raises UserError where Trafilatura gives nothing for a page of plain paragraphs."""
    import trafilatura

    if not trafilatura.extract(_PROBE):
        raise UserError("Trafilatura extracts nothing from a simple page. Install it anew: pip install "
                        "'crossthink[synth]' (lxml_html_clean is what it fails silently without).")  # fmt: skip


def _media_type(record: Any) -> str:
    """As Common Crawl identified it, else as the server said."""
    identified = record.rec_headers.get_header("WARC-Identified-Payload-Type")
    said = record.http_headers.get_header("Content-Type") if record.http_headers else None
    return (identified or said or "").partition(";")[0].strip().lower()


def _is_cut(record: Any) -> bool:
    """Whether the file ended before the record did: warcio gives what there is and says nothing."""
    rest = record.raw_stream  # counts down from the length that the record's header names
    while rest.read(BLOCK):
        pass
    return getattr(rest, "limit", 0) > 0  # without such a header there is nothing to compare with


def _decoded(content: bytes, said: str) -> str:
    """As text: in UTF-8, else in the encoding that the server or the page names, else in the one that it seems to have.

    Args:
        content: of the page.
        said: the server's Content-Type.
    """
    names = [match[1] for match in (_CHARSET.search(said.encode()), _META.search(content, 0, META_BYTES)) if match]
    for name in ("utf-8", *(name.decode("ascii", "replace") for name in names)):
        try:
            # What calls itself Latin-1 on the web is Windows-1252, as every browser reads it.
            found = codecs.lookup(name).name
            return content.decode("cp1252" if found in ("iso8859-1", "ascii") else found)
        except (LookupError, UnicodeError):
            continue
    from trafilatura.utils import decode_file

    return decode_file(content)
