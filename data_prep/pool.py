"""A pool: a folder with the prepared rows of every source (`NAME.parquet`) and how they came about (`manifest.json`).

Written once. The rows of a source stand in the order of its own rows, so a row is found by (source, index) and the same
input gives the same bytes.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crossthink.errors import UserError
from crossthink.files import sha256_file, write_json
from data_prep.blend_sampler import BlendSampler
from data_prep.blends import source_groups
from data_prep.rows import POOL_SCHEMA, PoolRow

POOL_VERSION = 2
MANIFEST_FILE = "manifest.json"
GROUP_ROWS = 512  # rows of a Parquet row group: what one random access decodes
CACHED_GROUPS = 64
_MAKE = "`crossthink prep out=FOLDER sources=[...]` makes a pool."


def rows_file(source: str) -> str:
    """Name of the file with a source's rows."""
    return f"{source}.parquet"


class SourceWriter:
    """Writes the rows of one source in row groups of `GROUP_ROWS`, however the rows come."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, POOL_SCHEMA, compression="zstd", write_page_index=False)
        self._waiting: list[pa.RecordBatch] = []
        self._count = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows under `POOL_SCHEMA`."""
        self._waiting.append(batch)
        self._count += batch.num_rows
        if self._count >= 16 * GROUP_ROWS:
            self._flush(self._count - self._count % GROUP_ROWS)

    def __enter__(self) -> SourceWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self._flush(self._count)
        self._writer.close()

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, POOL_SCHEMA)
        self._writer.write_table(table.slice(0, rows), row_group_size=GROUP_ROWS)
        # A copy: a slice would keep the whole table alive.
        rest = table.slice(rows).combine_chunks().to_batches()
        self._waiting = [pa.RecordBatch.from_arrays([pa.concat_arrays([c]) for c in b.columns], schema=POOL_SCHEMA)
                         for b in rest]  # fmt: skip
        self._count -= rows


def write_manifest(folder: Path, counts: Mapping[str, int], facts: Mapping[str, Any]) -> None:
    """Write `manifest.json` into a folder that holds the rows of every source.

    Args:
        folder: with a `NAME.parquet` for every source.
        counts: rows of every source, in the pool's order.
        facts: what else the manifest says.
    """
    files = {source: sha256_file(folder / rows_file(source)) for source in counts}
    pool = {"sha256": _combined(files), "rows": sum(counts.values()), "sources": dict(counts), "files": files}
    write_json(folder / MANIFEST_FILE, {"format": "crossthink-pool", "version": POOL_VERSION, "pool": pool, **facts})


def _combined(files: Mapping[str, str]) -> str:
    """One hash for the files of a pool, in their order."""
    return hashlib.sha256(json.dumps(list(files.items())).encode()).hexdigest()


class Pool:
    """A pool opened for reading. Rows are decoded a row group at a time; the pool is never whole in memory.

    Attributes:
        path: the folder.
        manifest: the contents of `manifest.json`.
        counts: rows of every source, in the pool's order.
        sha256: hex SHA-256 over the hashes of the files: the pool's identity in a run's own manifest.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.counts: dict[str, int] = dict(manifest["pool"]["sources"])
        self.sha256: str = manifest["pool"]["sha256"]
        self._files = {source: pq.ParquetFile(path / rows_file(source)) for source in self.counts}
        self._starts = {source: _group_starts(file) for source, file in self._files.items()}
        self._group = functools.lru_cache(CACHED_GROUPS)(self._read_group)

    @classmethod
    def open(cls, path: Path | str, verify: bool = True) -> Pool:
        """Open the pool folder at `path`.

        Args:
            path: the folder.
            verify: check the rows against the manifest's hashes, which is one pass over the files.

        Raises:
            UserError: `path` is missing, is no pool, or its rows are not the ones that its manifest describes.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path} is not a pool: no such folder. {_MAKE}")
        if not (path / MANIFEST_FILE).is_file():
            raise UserError(f"{path} is not a pool: it has no {MANIFEST_FILE}. {_MAKE}")
        try:
            manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
            if (version := manifest["version"]) != POOL_VERSION:
                raise UserError(f"{path} is a pool of version {version}; this release reads {POOL_VERSION}. {_MAKE}")
            files = {source: manifest["pool"]["files"][source] for source in dict(manifest["pool"]["sources"])}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path / MANIFEST_FILE} is not the manifest of a pool ({error!r}). {_MAKE}") from error
        for source, expected in files.items():
            file = path / rows_file(source)
            if not file.is_file():
                raise UserError(f"{path} is not a pool: it has no {file.name}. {_MAKE}")
            found = sha256_file(file) if verify else expected
            if found != expected:
                raise UserError(
                    f"{file} is not the file that {MANIFEST_FILE} describes (SHA-256 {found[:12]}..., expected "
                    f"{expected[:12]}...). Copy the pool again or make it again."
                )
        return cls(path, manifest)

    def __len__(self) -> int:
        """Rows of all sources."""
        return sum(self.counts.values())

    def row(self, source: str, index: int) -> PoolRow:
        """Row `index` (from 0) of `source`.

        Raises:
            KeyError: no such source.
            IndexError: no such row.
        """
        if not 0 <= index < self.counts[source]:
            raise IndexError(f"row {index} of {source}, which has {self.counts[source]}")
        group = bisect.bisect_right(self._starts[source], index) - 1
        batch = self._group(source, group)
        return PoolRow.from_arrow(batch.slice(index - self._starts[source][group], 1).to_pylist()[0])

    def rows(self, source: str | None = None) -> Iterator[PoolRow]:
        """All rows in the pool's order, or all of one source."""
        for name in self.counts if source is None else (source,):
            for batch in self._files[name].iter_batches(GROUP_ROWS):
                yield from map(PoolRow.from_arrow, batch.to_pylist())

    def columns(self, source: str, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of a source, a batch at a time."""
        return self._files[source].iter_batches(64 * GROUP_ROWS, columns=names)

    @functools.cached_property
    def groups(self) -> dict[str, tuple[str, str]]:
        """Domain and kind of every source, as `blends.source_groups` finds them."""
        return source_groups(
            (source, *pair)
            for source in self.counts
            for group in range(self._files[source].num_row_groups)
            for pair in _distinct_pairs(self._files[source], group)
        )

    def sampler(self, weights: Mapping[str, float | Fraction], seed: int) -> BlendSampler:
        """What a trainer draws from this pool under a blend; its errors name this pool."""
        return BlendSampler(self.counts, weights, seed, pool=str(self.path))

    def _read_group(self, source: str, group: int) -> pa.Table:
        return self._files[source].read_row_group(group)


def _group_starts(file: pq.ParquetFile) -> list[int]:
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    return list(itertools.accumulate(sizes, initial=0))


def _distinct_pairs(file: pq.ParquetFile, group: int) -> list[tuple[str, str]]:
    """(domain, kind) of the rows of a row group: from its statistics where all rows are alike."""
    columns, chunks = ["domain", "kind"], file.metadata.row_group(group)
    found = [chunks.column(POOL_SCHEMA.get_field_index(name)).statistics for name in columns]
    if all(one is not None and one.has_min_max and one.min == one.max for one in found):
        return [(found[0].min, found[1].min)]
    table = file.read_row_group(group, columns).group_by(columns).aggregate([])
    return list(zip(*(table.column(name).to_pylist() for name in columns), strict=True))
