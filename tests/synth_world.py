"""A small web for `crossthink synth`: WARC and WET files in which every record has a known fate.

An article tells one fact: who first described something. The brain of the scripted endpoint (`synth_brain.py`) knows
who did from the thing's name alone, so that it can write a question from a passage and solve it without one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from synth_brain import word_of
from synth_texts import FOREIGN, KINDS, SMALL_TALK, article
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_prep.synthesis.subjects import load_subjects

KEPT, DUPLICATE = "kept", "duplicate"
MAX_BYTES = 60_000
"""For `crawl.max_bytes`: one page is larger."""

LATIN = "The café in Málaga was the place for it, naïve as it is."


@dataclass(frozen=True)
class Record:
    """One record of the crawl.

    Attributes:
        name: last part of its URL.
        fate: KEPT, DUPLICATE (one of each `twin` stays) or the reason that it is dropped for.
        body: of the answer.
        kind: media type; `text/plain` makes a conversion record, as in a WET file.
        status: of HTTP.
        subject: that an article belongs to.
        thing: that an article tells the fact about.
        twin: what near and exact duplicates of each other share.
    """

    name: str
    fate: str
    body: bytes
    kind: str = "text/html; charset=utf-8"
    status: str = "200 OK"
    subject: str = ""
    thing: str = ""
    twin: str = ""

    @property
    def url(self) -> str:
        return f"https://example.org/{self.name}"


def html(title: str, paragraphs: list[str], charset: str = "utf-8") -> bytes:
    """A page with some navigation around its text."""
    text = "".join(f"<p>{one}</p>" for one in paragraphs)
    links = "".join(f'<li><a href="/{one}">{one}</a></li>' for one in ("home", "about", "contact"))
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="{charset}"><title>{title}</title></head><body>'
        f"<nav><ul>{links}</ul></nav><article><h1>{title}</h1>{text}</article><footer>All rights reserved</footer>"
        "</body></html>"
    )
    return page.encode(charset)


def articles(count: int, first: int = 0) -> list[Record]:
    """Different articles, the subjects in turn."""
    subjects = load_subjects(None)
    found = []
    for number in range(first, first + count):
        subject, thing = subjects[number % len(subjects)], f"{word_of(f'thing/{number}')} {KINDS[number % 8]}"
        body = html(f"Notes on the {thing}", article(f"article/{number}", subject, thing))
        found.append(Record(f"article-{number}", KEPT, body, subject=subject.name, thing=thing))
    return found


def duplicates(of: list[Record]) -> list[Record]:
    """Of each an exact copy under another address, and one with a last paragraph of its own."""
    found = []
    for one in of:
        extra = b"<p>Our thanks go to everybody in " + word_of(one.name).encode() + b" who read this.</p></article>"
        bodies = {"copy": one.body, "near": one.body.replace(b"</article>", extra)}
        found += [
            Record(f"{kind}-of-{one.name}", DUPLICATE, body, subject=one.subject, thing=one.thing, twin=one.name)
            for kind, body in bodies.items()
        ]
    return found


def same_fact(of: list[Record]) -> list[Record]:
    """Other articles that tell the same facts, so that the same questions are asked about them."""
    subjects = {one.name: one for one in load_subjects(None)}
    return [
        Record(
            f"again-{one.name}",
            KEPT,
            html(f"More about the {one.thing}", article(f"again/{one.name}", subjects[one.subject], one.thing)),
            subject=one.subject,
            thing=one.thing,
        )
        for one in of
    ]


def foreign(count: int) -> list[Record]:
    """Pages in other languages."""
    found = []
    for number in range(count):
        language = list(FOREIGN)[number % len(FOREIGN)]
        lines = [
            FOREIGN[language].format(p=word_of(f"{number}/{at}"), l=word_of(f"l{number}/{at}"), m=word_of(f"m{at}"))
            for at in range(6)
        ]
        found.append(Record(f"{language}-{number}", "other_language", html("Bonjour, hola, ciao, hallo", lines)))
    return found


def boilerplate(count: int) -> list[Record]:
    """Of each sort so many: a page made by a script, a form, an advertisement, a list, small talk."""
    subjects = load_subjects(None)
    found = []
    for number in range(count):
        name = word_of(f"site/{number}")
        script = f"<html><head><title>{name}</title></head><body><div id=app></div><script>run()</script></body></html>"
        login = [
            f"Please authenticate yourself for {name} with registered username and password. Registered members of "
            f"{name} can download documents, exchange messages with everybody and maintain collections of favourite "
            "photographs. Whoever has forgotten the password receives instructions by electronic correspondence."
        ]
        spam = [
            f"At {name} you buy " + "cheap shoes and the best of cheap shoes with cheap shoes to cheap shoes and " * 12
        ]
        told = ". ".join(article(f"list/{number}", subjects[number % len(subjects)], "", told=False)).split(". ")
        items = f"<ul><li>{'</li><li>'.join(one.strip('.') for one in told)}</li></ul></article>".encode()
        draw = random.Random(number)
        talk = [
            one.format(p=word_of(f"t{number}/{at}"), l=word_of(f"u{number}/{at}"), m=word_of(f"w{number}/{at}"))
            for at, one in enumerate(draw.sample(SMALL_TALK, len(SMALL_TALK)))
        ]
        found += [
            Record(f"script-{number}", "no_text", script.encode()),
            Record(f"login-{number}", "gopher_short_doc", html(f"Sign in to {name}", login)),
            Record(f"spam-{number}", "top_2_gram", html(f"Shoes of {name}", spam)),
            Record(f"list-{number}", "gopher_too_many_bullets", html(name, []).replace(b"</article>", items)),
            Record(f"talk-{number}", "no_subject", html(f"A weekend in {name}", talk)),
        ]
    return found


def odd(count: int) -> list[Record]:
    """What is no page at all: so many of each sort."""
    return [
        one
        for number in range(count)
        for one in (
            Record(f"paper-{number}.pdf", "not_html", b"%PDF-1.4 " + bytes(range(256)), "application/pdf"),
            Record(f"data-{number}.json", "not_html", b'{"answer": 42}', "application/json"),
            Record(f"gone-{number}", "not_found", html("Gone", ["There is nothing here."]), status="404 Not Found"),
            Record(f"empty-{number}", "empty", b""),
        )
    ]


def latin(count: int) -> list[Record]:
    """Articles in an old encoding that their server and they themselves name."""
    subjects = load_subjects(None)
    found = []
    for number in range(count):
        subject, thing = subjects[number], f"{word_of(f'latin/{number}')} effect"
        lines = [
            *article(f"latin/{number}", subject, thing),
            "The café in Málaga was the place for it, naïve as it is.",
        ]
        body = html(f"Notes on the {thing}", lines, "iso-8859-1")
        kind = "text/html; charset=ISO-8859-1"
        found.append(Record(f"latin-{number}", KEPT, body, kind, subject=subject.name, thing=thing))
    return found


def plain(of: list[Record], source: int) -> list[Record]:
    """Articles as a WET file has them: text without any markup."""
    subjects = load_subjects(None)
    found = []
    for number in range(len(of), len(of) + source):
        subject, thing = subjects[number % len(subjects)], f"{word_of(f'plain/{number}')} method"
        body = "\n".join(article(f"plain/{number}", subject, thing)).encode()
        found.append(Record(f"plain-{number}", KEPT, body, "text/plain", subject=subject.name, thing=thing))
    return found


@dataclass(frozen=True)
class World:
    """Files of a crawl and what stands in them, file by file."""

    folder: Path
    files: dict[str, list[Record]]

    @property
    def records(self) -> list[Record]:
        return [record for records in self.files.values() for record in records]

    def fates(self) -> Counter[str]:
        return Counter(record.fate for record in self.records)

    def by_url(self) -> dict[str, Record]:
        return {record.url: record for record in self.records}


def crawl(folder: Path, count: int = 57, few: int = 10) -> World:
    """Two WARC files, the second one cut off in its last record, and a WET file.

    Args:
        folder: made for them.
        count: different articles in the WARC files, beside some `few` of everything else.
    """
    different = articles(count)
    huge = Record("huge", "too_large", html("Huge", ["All of it again and again."] * (MAX_BYTES // 20)))
    first = [*different[::2], *foreign(2 * few), *boilerplate(few), *same_fact(different[:few:2]), huge]
    second = [*different[1::2], *duplicates(different[:few]), *odd(few), *latin(few // 2)]
    files = {
        "crawl-00000.warc.gz": shuffled(first),
        "crawl-00001.warc.gz": [*shuffled(second), Record("cut-off", "broken_record", html("Cut", ["Cut."] * 4000))],
        "crawl-00002.warc.wet.gz": plain(different, few),
    }
    folder.mkdir(parents=True)
    for name, records in files.items():
        data = warc(records)
        (folder / name).write_bytes(data[: -len(gzip.compress(b"")) - 40] if records[-1].name == "cut-off" else data)
    return World(folder, files)


def shuffled(records: list[Record]) -> list[Record]:
    return random.Random(0).sample(records, len(records))


def warc(records: list[Record]) -> bytes:
    """The bytes of a file, a gzip member for each record, with a request beside each page as crawlers keep it."""
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=True)
    writer.write_record(writer.create_warcinfo_record("crawl.warc.gz", {"software": "tests"}))
    for record in records:
        kind = "conversion" if record.kind == "text/plain" else "response"
        http = None
        if kind == "response":
            asked = StatusAndHeaders("GET / HTTP/1.1", [("Host", "example.org")], is_http_request=True)
            writer.write_record(writer.create_warc_record(record.url, "request", http_headers=asked))
            http = StatusAndHeaders(record.status, [("Content-Type", record.kind)], protocol="HTTP/1.1")
        headers = {"WARC-Record-ID": record_id(record.url), "WARC-Date": "2024-05-01T12:00:00Z"}
        writer.write_record(
            writer.create_warc_record(
                record.url,
                kind,
                payload=io.BytesIO(record.body),
                length=len(record.body),
                http_headers=http,
                warc_headers_dict=headers,
                warc_content_type="text/plain" if http is None else "",
            )
        )
    return file.getvalue()


def record_id(url: str) -> str:
    """Made of the address, so that two worlds are the same bytes."""
    digits = hashlib.sha256(url.encode()).hexdigest()
    return f"<urn:uuid:{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}>"
