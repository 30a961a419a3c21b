"""One source from its files to its rows in the pool: blocks in parallel, then the steps that look at all of them."""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.block import Prepared, sampling_rank
from data_prep.dedup import KEY_BYTES, NearDedup
from data_prep.golds import GoldJudge
from data_prep.pool import SourceWriter
from data_prep.steps import SHOWN, Tally


@dataclass
class Seen:
    """The questions that stand in the pool already. None: that kind of deduplication is switched off."""

    exact: set[bytes] | None
    near: NearDedup | None

    def dump(self, folder: Path, source: str, rows: Rows) -> list[str]:
        """Save what this source added, for a run that takes it up. Returns the files' names."""
        left, names = rows.left(), []
        if self.exact is not None:
            names.append(f".{source}.keys")
            (folder / names[-1]).write_bytes(b"".join(rows.keys[row] for row in left))
        if self.near is not None:
            names.append(f".{source}.signatures.npy")
            np.save(folder / names[-1], rows.all_signatures()[left], allow_pickle=False)
        return names

    def load(self, folder: Path, source: str) -> None:
        """Take up what `dump` saved."""
        if self.exact is not None:
            saved = (folder / f".{source}.keys").read_bytes()
            self.exact.update(saved[at : at + KEY_BYTES] for at in range(0, len(saved), KEY_BYTES))
        if self.near is not None:
            self.near.keep(np.load(folder / f".{source}.signatures.npy", allow_pickle=False))


@dataclass
class Rows:
    """What is known of the rows of a source while its text waits on disk. `drops[i]` is (step, reason), or None."""

    files: list[tuple[Path, int]] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    signatures: list[np.ndarray] = field(default_factory=list)
    golds: dict[int, tuple[str, ...]] = field(default_factory=dict)
    contaminated: list[dict[str, Any]] = field(default_factory=list)
    drops: list[tuple[str, str] | None] = field(default_factory=list)

    def all_signatures(self) -> np.ndarray:
        """The signatures of all rows, [rows, permutations]."""
        return np.concatenate(self.signatures)

    def left(self) -> list[int]:
        """Rows that nothing has dropped yet."""
        return [row for row, drop in enumerate(self.drops) if drop is None]

    def drop(self, rows: Iterable[int], step: str, reason: str) -> None:
        """Mark rows as dropped."""
        for row in rows:
            self.drops[row] = (step, reason)


def collect(results: Iterator[Prepared], tally: Tally, progress: Callable[[int], None]) -> Rows:
    """Gather the blocks of a source in order. `progress` is told how many raw rows each had."""
    rows = Rows()
    for result in results:
        start = len(rows.keys)
        rows.files.append((result.file, len(result.keys)))
        rows.keys += result.keys
        rows.drops += [None] * len(result.keys)
        if result.signatures is not None and len(result.keys):
            rows.signatures.append(result.signatures)
        rows.golds.update({start + row: golds for row, golds in result.golds.items()})
        rows.contaminated += result.contaminated
        tally.add(result.tally)
        progress(result.tally.rows_in)
    return rows


def drop_bad_golds(rows: Rows, judge: GoldJudge, progress: Callable[[int], None]) -> None:
    """Step `gold`, for the golds that a worker of the reward server must parse."""
    bad = judge.bad((gold for golds in rows.golds.values() for gold in golds), progress)
    rows.drop((row for row, golds in rows.golds.items() if not bad.isdisjoint(golds)), "gold", "bad_gold")


def drop_duplicates(rows: Rows, seen: Seen) -> None:
    """Steps `duplicates` and `near_duplicates`: the first of equals stays, here or in an earlier source.

    `seen` is left as it is: what the pool holds is known only when the source has been sampled (`remember`).
    """
    if seen.exact is not None:
        here: set[bytes] = set()
        for row in rows.left():
            key = rows.keys[row]
            if key in here or key in seen.exact:
                rows.drop([row], "duplicates", "duplicate")
            here.add(key)
    if seen.near is not None and (left := rows.left()):
        earlier = copy.deepcopy(seen.near).keep(rows.all_signatures()[left])
        dropped = (row for row, other in zip(left, earlier, strict=True) if other is not None)
        rows.drop(dropped, "near_duplicates", "near_duplicate")


def remember(rows: Rows, seen: Seen) -> None:
    """Add the rows that stand in the pool to what later sources must not repeat."""
    left = rows.left()
    if seen.exact is not None:
        seen.exact.update(rows.keys[row] for row in left)
    if seen.near is not None and left:
        seen.near.keep(rows.all_signatures()[left])


def draw_sample(rows: Rows, size: int | None, seed: int) -> None:
    """Step `sample`: keep `size` rows, chosen by a hash of the question, so that every subset is as likely.

    The same question is chosen under the same seed whatever else the source holds or in which order it comes.
    """
    left = rows.left()
    if size is None or len(left) <= size:
        return
    kept = set(heapq.nsmallest(size, left, key=lambda row: (sampling_rank(rows.keys[row], seed), row)))
    rows.drop((row for row in left if row not in kept), "sample", "not_sampled")


def write_rows(rows: Rows, path: Path, source: str, tally: Tally) -> int:
    """Write what is left to `path`, count what is not. Returns the rows written."""
    start = written = 0
    with SourceWriter(path) as writer:
        for file, count in rows.files:
            drops = rows.drops[start : start + count]
            start += count
            with pa.memory_map(str(file)) as mapped, pa.ipc.open_file(mapped) as reader:
                batch = reader.get_batch(0)
                _count_drops(drops, batch, source, tally)
                kept = batch.filter(pa.array([drop is None for drop in drops], pa.bool_()))
                writer.add(kept)
                written += kept.num_rows
            file.unlink()
    return written


def _count_drops(drops: Sequence[tuple[str, str] | None], batch: pa.RecordBatch, source: str, tally: Tally) -> None:
    for row, drop in enumerate(drops):
        if drop is None:
            continue
        step, reason = drop
        shown: dict[str, Any] = {}
        if tally.dropped[step][reason] < SHOWN:
            found = batch.slice(row, 1).to_pylist()[0]
            shown = {name: found[name] for name in ("id", "question", "options", "ground_truth")}
        tally.drop(step, reason, {"source": source, **shown})
