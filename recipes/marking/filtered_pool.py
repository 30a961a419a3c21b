"""The pool of the rows that stay: same rows, same order, with a manifest that says what it was made from and how."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crossthink.errors import UserError
from crossthink.files import atomic_dir, atomic_file
from data_prep import card
from data_prep.pool import GROUP_ROWS, Pool, SourceWriter, rows_file, write_manifest
from data_prep.prep import CARD
from data_prep.rows import PoolRow, to_record_batch
from data_prep.steps import Tally
from recipes.marking.marks import Counts, Mark, Rule, outcome, stays

FACTS = "difficulty"
"""Key of a filtered pool's manifest; absent from every other pool's."""
# Of the parent's manifest: what describes its own files.
_NOT_INHERITED = ("format", "version", "pool", "exports", "command")
MARKS_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("id", pa.string()),
        ("pass_rate", pa.float64()),
        ("samples", pa.int32()),
        ("statuses", pa.list_(pa.string())),
        ("outcome", pa.string()),
    ]
)


def write_marks(path: Path, marks: Sequence[Mark], rule: Rule) -> None:
    """A row for every question that was to be asked, in the pool's order; pass_rate is null where there is none."""
    columns = [
        [mark.source for mark in marks],
        [mark.id for mark in marks],
        [mark.pass_rate for mark in marks],
        [len(mark.statuses) for mark in marks],
        [list(mark.statuses) for mark in marks],
        [outcome(mark, rule) for mark in marks],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, MARKS_SCHEMA, strict=True)]
    with atomic_file(path, "wb") as handle:
        pq.write_table(pa.table(arrays, schema=MARKS_SCHEMA), handle, compression="zstd")


def outcomes(pool: Pool, marks: Sequence[Mark], domains: Sequence[str], rule: Rule) -> Iterator[tuple[PoolRow, str]]:
    """Every row of the pool with its outcome. `marks` are those of the rows of `domains`, in the pool's order."""
    waiting = iter(marks)
    for row in pool.rows():
        yield row, outcome(next(waiting) if row.domain in domains else None, rule)


def write_filtered(
    out: Path, parent: Pool, marks: Sequence[Mark], domains: Sequence[str], rule: Rule, facts: Mapping[str, Any]
) -> dict[str, Counts]:
    """Write the pool of the rows that stay, whole or not at all.

    Args:
        out: its folder; must not exist.
        parent: the pool that was asked.
        marks: of the rows of `domains`, in the pool's order.
        domains: whose rows were to be asked.
        rule: which pass rates stay.
        facts: what the manifest says under `difficulty`, beside the counts.

    Returns:
        What became of the rows of every source. A source of which nothing stays is no source of the new pool.

    Raises:
        UserError: no row stays.
    """
    counts = {source: Counts() for source in parent.counts}
    for row, name in outcomes(parent, marks, domains, rule):
        counts[row.source].count(name)
    total = sum(counts.values(), Counts())
    if not total.rows_out:
        raise UserError(
            f"No row of {parent.path} stays: {total.dropped} of {total.rows_in} have a pass rate outside {rule.low:g} "
            f"to {rule.high:g}, {total.invalid} could not be judged. No pool was written. Ask a weaker model, or "
            "another keep= (keep=range keep_range=[low,high]); the answers are kept for it (resume=true)."
        )
    about = {**facts, "by_source": {name: asdict(one) for name, one in counts.items()}, "total": asdict(total)}
    with atomic_dir(out) as aside:
        rows = (row for row, name in outcomes(parent, marks, domains, rule) if stays(name))
        left = {source: one.rows_out for source, one in counts.items() if one.rows_out}
        for source, count in left.items():
            _write_source(aside / rows_file(source), islice(rows, count))
        inherited = {key: value for key, value in parent.manifest.items() if key not in _NOT_INHERITED}
        write_manifest(aside, left, {**inherited, "command": FACTS, FACTS: about})
        if "decontamination" in inherited:  # a pool that prep has made
            page = card.page(Pool.open(aside, verify=False), _tallies(parent, left), out.parent.name, _card_part(about))
            (aside / CARD).write_text(page, "utf-8")
    return counts


def _write_source(path: Path, rows: Iterator[PoolRow]) -> None:
    with SourceWriter(path) as writer:
        while some := list(islice(rows, GROUP_ROWS)):
            writer.add(to_record_batch(some))


def _tallies(parent: Pool, left: Mapping[str, int]) -> dict[str, Tally]:
    """What prep said of the sources' rows, read back from the parent's manifest."""
    found = {}
    for source in left:
        facts = parent.manifest["sources"][source]
        found[source] = Tally(rows_in=facts["rows_in"])
        for step in facts["steps"]:
            found[source].dropped[step["step"]].update(step["dropped"])
    return found


def _card_part(about: Mapping[str, Any]) -> str:
    """The part of the data card that says how the pool was filtered."""
    head = list(about["total"])
    rows = [(name, *counts.values()) for name, counts in (*about["by_source"].items(), ("total", about["total"]))]
    lines = ["".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in ("source", *head))]
    lines += ["".join(f"<td class=n>{html.escape(f'{cell:,}' if isinstance(cell, int) else cell)}</td>" for cell in row)
              for row in rows]  # fmt: skip
    low, high = about["keep_range"]
    who = about["answerer"].get("checkpoint") or about["answerer"].get("model") or "a smaller model"
    return (
        f"<h2>Filtered by difficulty</h2><p>{html.escape(str(who))} was asked the questions of "
        f"{html.escape(', '.join(about['domains']))}, {about['samples']} answer(s) each; those with a pass rate of "
        f"{low:g} to {high:g} stay, those whose ground truth cannot be judged go, all others stay. The sections below "
        f"on what was dropped are of the pool that was filtered, SHA-256 {about['parent']['sha256'][:16]}.</p>"
        f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
    )
