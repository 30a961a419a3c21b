"""The signatures that this binding is written for (contract.json), and how a source tree differs from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipes.rollout.trtllm.source_tree import NO_DEFAULT, Found, SourceTree
from recipes.rollout.trtllm.wanted import ATTRIBUTES, COMMIT, FUNCTION, PIN, WANTED, Wanted

FILE = Path(__file__).with_name("contract.json")
ANY = "(any)"
"""In place of a default: our source did not show it, or we always pass a value."""


@dataclass(frozen=True)
class Source:
    """Where a signature was read: it need not be the release's own tree."""

    repository: str
    path: str
    commit: str


@dataclass(frozen=True)
class Entry:
    """The signature of one wanted name, cut down to what we use.

    Attributes:
        parts: parameter, field, member or attribute → default, ANY or NO_DEFAULT.
        kinds: parameter → "positional", "either" or "keyword".
    """

    name: str
    kind: str
    path: str
    parts: dict[str, str]
    kinds: dict[str, str] = field(default_factory=dict)
    is_async: bool = False
    open: bool = False
    optional: bool = False
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Difference:
    """Where a tree says something else."""

    name: str
    at: str
    what: str


def load(file: Path = FILE) -> dict[str, Entry]:
    """The contract, by name."""
    entries = json.loads(file.read_text("utf-8"))["entries"]
    return {
        one["name"]: Entry(**{**one, "sources": tuple(Source(**source) for source in one.get("sources", ()))})
        for one in entries
    }


def dump(entries: Iterator[Entry] | list[Entry], file: Path) -> None:
    """Write a contract, a line an entry."""
    empty = Entry("", "", "", {})
    lines = []
    for entry in entries:
        values = {key: value for key, value in asdict(entry).items() if key == "parts" or value != getattr(empty, key)}
        lines.append("  " + json.dumps(values))
    head = {"package": "tensorrt-llm", "version": PIN, "commit": COMMIT}
    text = json.dumps(head)[:-1] + ', "entries": [\n' + ",\n".join(lines) + "\n]}\n"
    file.write_text(text, "utf-8")


def from_tree(tree: SourceTree, source: Source) -> list[Entry]:
    """The contract that a tree states. Names it lacks are left out; `differences` and `uncovered` tell of them."""
    entries = []
    for wanted in WANTED:
        found = tree.find(wanted)
        if found is not None:
            entries.append(_cut(wanted, found, source))
    return entries


def _cut(wanted: Wanted, found: Found, source: Source) -> Entry:
    parts = {name: found.parts[name] for name in wanted.uses if name in found.parts}
    return Entry(
        wanted.name, wanted.kind, found.path, parts, {name: found.kinds[name] for name in parts if name in found.kinds},
        found.is_async, found.open, wanted.optional, (Source(source.repository, found.path, source.commit),),
    )  # fmt: skip


def differences(tree: SourceTree, contract: dict[str, Entry]) -> Iterator[Difference]:
    """Everything in which a tree is not what the contract says, as far as we use it and the tree covers it."""
    for wanted in WANTED:
        entry, found = contract.get(wanted.name), tree.find(wanted)
        if found is None:
            if not wanted.optional and tree.covers(wanted):
                yield Difference(wanted.name, wanted.path, "is not there")
            continue
        if entry is None:
            if not wanted.optional:
                yield Difference(wanted.name, found.at(), "is not in the contract; write it anew")
            entry = Entry(wanted.name, wanted.kind, wanted.path, {})
        class_name = wanted.name.partition(".")[0]
        if found.path != entry.path and "." not in wanted.name and not tree.imports(entry.path, class_name):
            yield Difference(wanted.name, found.at(), f"moved from {entry.path}")
        yield from _compare(wanted, entry, found)


def uncovered(tree: SourceTree) -> list[str]:
    """Names that we need and whose files the tree does not have: nothing is known of them."""
    return [wanted.name for wanted in WANTED if not wanted.optional and not tree.covers(wanted)]


def _compare(wanted: Wanted, entry: Entry, found: Found) -> Iterator[Difference]:
    if found.is_async != entry.is_async:
        yield Difference(wanted.name, found.at(), f"is {'now' if found.is_async else 'no longer'} a coroutine function")
    for part in wanted.uses:
        if part not in found.parts:
            if not found.open:
                yield Difference(wanted.name, found.at(), f"has no {part}")
            continue
        old, new = entry.parts.get(part, ANY), found.parts[part]
        if wanted.kind != ATTRIBUTES and ANY not in (old, new) and old != new:
            yield Difference(wanted.name, found.at(part), f"{part} has the default {new}, not {old}")
        kinds = entry.kinds.get(part), found.kinds.get(part)
        if None not in kinds and kinds[0] != kinds[1]:
            yield Difference(wanted.name, found.at(part), f"{part} is {kinds[1]}, not {kinds[0]}")
    if wanted.kind != ATTRIBUTES:
        for part, default in found.parts.items():
            if default == NO_DEFAULT and part not in wanted.uses:
                what = "parameter" if wanted.kind == FUNCTION else "field"
                yield Difference(wanted.name, found.at(part), f"needs the {what} {part}, which we do not give")


def to_row(entry: Entry) -> dict[str, Any]:
    """An entry as the command's table shows it."""
    return {"name": entry.name, "parts": ", ".join(entry.parts) or "–", "file": entry.path}
