"""Rows out of .jsonl, .jsonl.gz and .parquet files and folders of them, a block at a time.

The reader cuts files into `Block`s without decoding them; `rows_of` decodes one, in whichever process has the time. How
a file is cut depends on the file alone, so that nothing later depends on the number of workers.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from crossthink.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
BLOCK_BYTES = 4 << 20  # of JSONL: some thousand rows, so that vectorised steps pay and few blocks are in flight
BLOCK_ROWS = 4096  # of Parquet
AGAIN = "Fetch it again, or rename it if it is of another kind."
MAX_LINE = 64 << 20  # bytes; a longer line is no row of any known source


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file, not decoded yet.

    Attributes:
        file: where they are from.
        first: number of the first line (in Parquet: row), from 1.
        data: whole lines of JSONL, or a batch of Parquet.
        at_most: decode no more rows than this.
    """

    file: Path
    first: int
    data: bytes | pa.RecordBatch
    at_most: int

    def __len__(self) -> int:
        """Rows, empty lines not counted."""
        if isinstance(self.data, bytes):
            return min(self.at_most, sum(1 for line in self.data.split(b"\n") if line.strip()))
        return min(self.at_most, self.data.num_rows)


def data_files(path: Path | str) -> list[Path]:
    """The data files that `path` stands for: itself, or every one below a folder in the order of their names.

    Raises:
        UserError: `path` does not exist, is no data file, or is a folder without any; or a name is not UTF-8.
    """
    files = _data_files(Path(path))
    for file in files:
        try:
            str(file).encode()
        except UnicodeEncodeError:  # neither a row's meta nor the manifest could say where it is from
            raise UserError(f"{str(file)!r} has a name that is not UTF-8. Rename the file or its folder.") from None
    return files


def _data_files(path: Path) -> list[Path]:
    if path.is_dir():
        found = (file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
        # Hidden ones are the caches and locks of download tools.
        files = sorted(f for f in found if not any(part.startswith(".") for part in f.relative_to(path).parts))
        if not files:
            raise UserError(f"{path} is a folder without data files. Allowed: {', '.join(SUFFIXES)}.")
        return files
    if not path.exists():
        raise UserError(f"{path} does not exist. Give a file or a folder of files ({', '.join(SUFFIXES)}).")
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path} is not a data file by its name. Allowed: {', '.join(SUFFIXES)}.")
    return [path]


def read_blocks(files: Collection[Path], limit: int | None = None, unread: Collection[str] = ()) -> Iterator[Block]:
    """Cut files into blocks, in order.

    Args:
        files: data files by name.
        limit: at most this many rows of all files together.
        unread: columns of Parquet files that nobody needs; they are not even decoded.

    Raises:
        UserError: a file is damaged; the message names it and how far it could be read.
    """
    left = limit
    for file in files:
        for block in _parquet_blocks(file, unread) if file.suffix == ".parquet" else _jsonl_blocks(file):
            if left is None:
                yield block
                continue
            rows = min(len(block), left)
            if rows:
                yield Block(block.file, block.first, block.data, rows)
            left -= rows
            if not left:
                return


def rows_of(block: Block) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """Decode a block: number of the line (in Parquet: row) and its fields. Empty lines are passed over.

    A line that is no JSON object comes as the `UserError` that names it; what becomes of it is the caller's to say.
    """
    if not isinstance(block.data, bytes):
        yield from enumerate(_parquet_rows(block), start=block.first)
        return
    left = block.at_most
    for number, line in enumerate(block.data.split(b"\n"), start=block.first):
        if not line.strip():
            continue
        if not left:
            return
        left -= 1
        yield number, _parse(line, block.file, number)


def read_rows(path: Path | str) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Yield `(file, number, row)` of everything at `path`; for callers with few rows.

    Raises:
        UserError: a file is missing or damaged, or a line is no JSON object; the message names file and line.
    """
    for block in read_blocks(data_files(path)):
        for number, row in rows_of(block):
            if isinstance(row, UserError):
                raise row
            yield block.file, number, row


def _jsonl_blocks(file: Path) -> Iterator[Block]:
    first, rest = 1, b""
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as handle:
        while data := _read(handle, file, first):
            # Only "\n" ends a line: U+2028 and its like may stand inside a JSON string.
            end = data.rfind(b"\n") + 1
            if not end:
                rest += data
                if len(rest) > MAX_LINE:
                    raise UserError(f"{file}, line {first}: longer than {MAX_LINE >> 20} MiB. It is no row of data.")
                continue
            block = rest + data[:end]
            yield Block(file, first, block, len(block))
            first, rest = first + block.count(b"\n"), data[end:]
    if rest.strip():
        yield Block(file, first, rest, len(rest))


def _read(handle: IO[bytes] | gzip.GzipFile, file: Path, first: int) -> bytes:
    try:
        return handle.read(BLOCK_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}, after line {first - 1}: damaged or cut-off gzip data ({error}). {AGAIN}") from error


def _parquet_blocks(file: Path, unread: Collection[str]) -> Iterator[Block]:
    first = 1
    try:
        with pq.ParquetFile(file) as parquet:
            columns = [name for name in parquet.schema_arrow.names if name not in unread]
            for batch in parquet.iter_batches(batch_size=BLOCK_ROWS, columns=columns):
                yield Block(file, first, batch, batch.num_rows)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}, after row {first - 1}: damaged Parquet data ({error}). {AGAIN}") from error


def _parquet_rows(block: Block) -> list[dict[str, Any] | UserError]:
    assert not isinstance(block.data, bytes)
    batch = block.data.slice(0, block.at_most)
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # some text is not UTF-8, which Arrow does not check: find out whose
        return [_parquet_row(batch.slice(at, 1), block.file, block.first + at) for at in range(batch.num_rows)]


def _parquet_row(batch: pa.RecordBatch, file: Path, number: int) -> dict[str, Any] | UserError:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return UserError(f"{file}, row {number}: text that is not UTF-8 ({error}).")


def _parse(line: bytes, file: Path, number: int) -> dict[str, Any] | UserError:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        # The standard library takes more (NaN, a byte order mark, escaped lone surrogates) and explains better.
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            return UserError(f"{file}, line {number}: not a line of JSON ({error}).")
    if not isinstance(row, dict):
        return UserError(f"{file}, line {number}: expected a JSON object, found {type(row).__name__}.")
    return row
