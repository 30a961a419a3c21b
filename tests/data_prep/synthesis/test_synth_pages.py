"""Pages out of WARC and WET files: every record has its known fate, however broken its file is."""

from __future__ import annotations

import gzip
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("trafilatura")
from datatrove.data import Document
from synth_world import DUPLICATE, KEPT, LATIN, MAX_BYTES, Record, World, articles, crawl, html, record_id, warc

from crossthink.errors import UserError
from data_prep.synthesis.pages import PLAIN, Extract, Language, PageReader, check_extraction

pytestmark = pytest.mark.timeout(300)

UNREAD = ("not_found", "not_html", "empty", "too_large", "broken_record")
"""Fates that the reader decides."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return crawl(tmp_path_factory.mktemp("crawl") / "files")


def read(folder: Path, rank: int = 0, tasks: int = 1, limit: int = -1) -> tuple[list[Document], Counter[str]]:
    """The documents of a task, and what was dropped."""
    reader = PageReader(str(folder), None, MAX_BYTES, limit)
    return list(reader.run(None, rank, tasks)), dropped(reader)


def dropped(step: Any) -> Counter[str]:
    found = {label.removeprefix("dropped_"): stats.total for label, stats in step.stats.stats.items()}
    return Counter({reason: found[reason] for reason in found if f"dropped_{reason}" in step.stats.stats})


def test_the_world_is_what_a_crawl_is(world: World) -> None:
    fates = world.fates()
    assert len(world.records) >= 200
    assert fates[KEPT] >= 57 and fates[DUPLICATE] >= 16
    assert all(fates[fate] for fate in (*UNREAD, "no_text", "other_language", "no_subject", "top_2_gram"))


def test_every_record_is_a_page_or_counted(world: World) -> None:
    documents, reasons = read(world.folder)
    by_url = world.by_url()
    wanted = [record for name in sorted(world.files) for record in world.files[name] if record.fate not in UNREAD]
    assert [document.metadata["url"] for document in documents] == [record.url for record in wanted]
    assert reasons == {fate: count for fate, count in world.fates().items() if fate in UNREAD}
    for document in documents:
        record = by_url[document.metadata["url"]]
        assert document.id == record_id(record.url)
        assert document.metadata["date"] == "2024-05-01T12:00:00Z"
        assert record in world.files[document.metadata["crawl_file"]]
        assert document.metadata[PLAIN] == (record.kind == "text/plain")
        charset = "iso-8859-1" if record.name.startswith("latin") else "utf-8"
        assert document.text == record.body.decode(charset)


def test_every_file_belongs_to_one_task(world: World) -> None:
    whole, _ = read(world.folder)
    parts = [read(world.folder, rank, 2)[0] for rank in (0, 1)]
    assert Counter(one.id for one in whole) == Counter(one.id for part in parts for one in part)
    assert all(parts)


def test_a_limit_ends_the_reading(world: World) -> None:
    assert len(read(world.folder, limit=7)[0]) == 7


def test_paths_are_read_from_a_list(world: World, tmp_path: Path) -> None:
    listed = tmp_path / "warc.paths"
    listed.write_text("crawl-00002.warc.wet.gz\n")
    documents = list(PageReader(str(world.folder), str(listed), MAX_BYTES, -1).run(None, 0, 1))
    assert {one.metadata["crawl_file"] for one in documents} == {"crawl-00002.warc.wet.gz"}


@pytest.mark.parametrize("cut", [0.3, 0.55, 0.8, 0.97])
def test_a_file_that_is_cut_off_gives_the_pages_before(cut: float, tmp_path: Path) -> None:
    records = articles(6)
    data = warc(records)
    (tmp_path / "a.warc.gz").write_bytes(data[: int(len(data) * cut)])
    documents, reasons = read(tmp_path)
    assert [one.metadata["url"] for one in documents] == [one.url for one in records[: len(documents)]]
    assert all(one.text == record.body.decode() for one, record in zip(documents, records, strict=False))
    assert len(documents) == sum(len(warc(records[: at + 1])) <= int(len(data) * cut) for at in range(6))
    assert set(reasons) <= {"broken_record", "broken_file"} and reasons.total() <= 1


def test_a_page_that_is_cut_off_is_no_page(tmp_path: Path) -> None:
    """Uncompressed, every byte that was written before can be read: half a page must not count as a page."""
    records = articles(2)
    data = gzip.decompress(warc(records))
    (tmp_path / "a.warc").write_bytes(data[: data.index(b"</article>", data.index(records[1].url.encode()))])
    documents, reasons = read(tmp_path)
    assert [one.metadata["url"] for one in documents] == [records[0].url]
    assert reasons == {"broken_record": 1}


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive at all\r\n\r\n", gzip.compress(b"<html></html>"), random.Random(0).randbytes(4096)],
    ids=["empty", "text", "gzip", "noise"],  # of its own, a gzip header has the time in it, and a name must not
)
def test_a_file_that_is_no_archive_does_not_stop_the_others(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(content)
    (tmp_path / "b.warc.gz").write_bytes(warc(articles(1)))
    documents, reasons = read(tmp_path)
    assert [one.metadata["crawl_file"] for one in documents] == ["b.warc.gz"]
    assert reasons == ({"broken_file": 1} if content else {})


def test_a_file_that_is_damaged_in_the_middle_gives_no_other_text(tmp_path: Path) -> None:
    """Whatever bytes are wrong, no page comes out that is not one of those that went in."""
    records = articles(5)
    data, texts = bytearray(warc(records)), {one.body.decode() for one in records}
    for at in range(500, len(data) - 8, len(data) // 12):
        damaged = bytearray(data)
        damaged[at : at + 8] = b"\x00\xff\x00\xff\x00\xff\x00\xff"
        (tmp_path / "a.warc.gz").write_bytes(bytes(damaged))
        documents, _ = read(tmp_path)
        assert {one.text for one in documents} <= texts
        assert len(documents) < len(records) or at > len(data) - 100


class Scripted(Extract):
    """An extractor that does what a page says."""

    def extract(self, text: str) -> str:
        if "sleep" in text:
            time.sleep(600)
        if "die" in text:
            os._exit(1)
        return "" if "nothing" in text else text


def test_a_page_may_hang_or_kill_its_extractor() -> None:
    step = Scripted(5.0)
    texts = ["one", "die", "two", "nothing", "sleep", "three"]
    documents = [Document(text, str(at), metadata={PLAIN: False}) for at, text in enumerate(texts)]
    plain = Document("of a WET file: sleep", "6", metadata={PLAIN: True})
    assert [one.text for one in step.run([*documents, plain], 0, 1)] == ["one", "two", "three", plain.text]
    assert dropped(step) == {"extractor_died": 1, "no_text": 1, "late": 1}


def test_articles_are_extracted_without_what_is_around_them() -> None:
    (record,) = articles(1)
    (found,) = Extract(30.0).run([Document(record.body.decode(), "0", metadata={PLAIN: False})], 0, 1)
    assert record.thing in found.text and "was first described by" in found.text
    assert "All rights reserved" not in found.text and "contact" not in found.text and "<" not in found.text


@pytest.mark.parametrize(
    ("charset", "in_page", "by_server"),
    [
        ("iso-8859-1", True, False),
        ("iso-8859-1", False, True),
        ("windows-1252", True, True),
        ("iso-8859-15", True, False),
        ("utf-16", False, True),
        ("utf-8", False, False),
    ],
)
def test_an_encoding_is_the_one_that_is_named(charset: str, in_page: bool, by_server: bool, tmp_path: Path) -> None:
    page = html("Encodings", [LATIN]).decode().replace("utf-8", charset if in_page else "no-such-thing")
    kind = f"text/html; charset={charset}" if by_server else "text/html"
    (tmp_path / "a.warc.gz").write_bytes(warc([Record("one", KEPT, page.encode(charset), kind)]))
    (found,), _ = read(tmp_path)
    assert found.text.lstrip("\ufeff") == page


def test_an_extractor_that_gives_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import trafilatura

    check_extraction()
    monkeypatch.setattr(trafilatura, "extract", lambda *args, **more: None)
    with pytest.raises(UserError, match="Trafilatura extracts nothing.*lxml_html_clean"):
        list(Extract(1.0).run(iter([]), 0, 1))


def languages(texts: list[str], **changed: Any) -> tuple[list[str], Counter[str]]:
    step = Language(**{"languages": ["en"], "least": 0.9, **changed})
    kept = [one.text for one in step.run([Document(text, str(at)) for at, text in enumerate(texts)], 0, 1)]
    return kept, dropped(step)


def test_languages_are_told_apart(world: World) -> None:
    foreign = [one.body.decode() for one in world.records if one.fate == "other_language"]
    english = [" ".join(["The water in the river is cold, and nobody wants to swim in it today."] * 3)]
    german = ["Das Wasser im Fluss ist kalt, und niemand möchte heute darin schwimmen gehen."]
    assert languages(english + german) == (english, {"other_language": 1})
    assert languages(english + german, languages=["de"])[0] == german
    assert languages(english, least=1.1) == ([], {"language_unsure": 1})
    assert len(foreign) >= 16


def test_a_page_without_html_is_none(tmp_path: Path) -> None:
    kinds = ["text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml", "image/png", "application/pdf", ""]
    records: Iterator[Record] = (
        Record(f"{at}", KEPT, html("T", ["Some text."]), kind) for at, kind in enumerate(kinds)
    )
    (tmp_path / "a.warc.gz").write_bytes(warc(list(records)))
    documents, reasons = read(tmp_path)
    assert [one.metadata["url"].rpartition("/")[2] for one in documents] == ["0", "1", "2"]
    assert reasons == {"not_html": 3}
