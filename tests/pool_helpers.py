"""Pools from rows, without sources."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from data_prep.pool import Pool, SourceWriter, rows_file, write_manifest
from data_prep.rows import PoolRow, to_record_batch


def write_pool(folder: Path, rows: Iterable[PoolRow]) -> Pool:
    """A pool folder with `rows`, which must stand grouped by source."""
    folder.mkdir(parents=True)
    counts: dict[str, int] = {}
    for source, group in groupby(rows, key=lambda row: row.source):
        batch = to_record_batch(list(group))
        with SourceWriter(folder / rows_file(source)) as writer:
            writer.add(batch)
        counts[source] = batch.num_rows
    write_manifest(folder, counts, {})
    return Pool.open(folder)
