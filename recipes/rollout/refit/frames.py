"""How weights are cut into messages: pieces of tensors, and the header that says what a message holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.checksums import bytes_of
from recipes.rollout.refit.offer import DTYPES, TensorSpec, check_spec, read_spec

HEADER_BYTES = 4096
"""Of a header's first broadcast; a longer one needs a second."""
LENGTH_BYTES = 8
MOST_HEADER_BYTES = 64 * 2**20
DIRECT_BYTES = 2**20
"""A piece this large is a broadcast of its own, out of its tensor and into its tensor; smaller ones share a buffer."""


@dataclass(frozen=True)
class Piece:
    """Elements [start, stop) of a flat tensor. `direct`: in a broadcast of its own."""

    spec: TensorSpec
    start: int
    stop: int
    direct: bool

    @property
    def bytes(self) -> int:
        """Of its elements on the wire."""
        return (self.stop - self.start) * DTYPES[self.spec[1]].itemsize

    @property
    def is_last(self) -> bool:
        """Whether its tensor ends with it."""
        return self.stop == elements(self.spec)

    def part(self, whole: Tensor) -> Tensor:
        """uint8 [bytes] of its place in its contiguous tensor."""
        size = whole.element_size()
        return bytes_of(whole)[self.start * size : self.stop * size]


def elements(spec: TensorSpec) -> int:
    """Of a tensor."""
    return torch.Size(spec[2]).numel()


def cut(spec: TensorSpec, bucket_bytes: int) -> Iterator[Piece]:
    """Pieces of a tensor, none larger than a bucket; a tensor without elements is one empty piece."""
    size = DTYPES[spec[1]].itemsize
    total, step = elements(spec), max(1, bucket_bytes // size)
    for start in range(0, max(1, total), step):
        stop = min(total, start + step)
        yield Piece(spec, start, stop, direct=(stop - start) * size >= DIRECT_BYTES)


def bucket_header(pieces: list[Piece]) -> dict[str, Any]:
    """The header of a message that holds these pieces: the direct ones in their order, then the others in one."""
    return {"kind": "bucket", "pieces": [[*piece.spec, piece.start, piece.stop, piece.direct] for piece in pieces]}


def read_pieces(header: Mapping[str, Any], bucket_bytes: int, wanted: Mapping[str, TensorSpec] | None) -> list[Piece]:
    """The pieces that a header announces.

    Args:
        header: of kind bucket.
        bucket_bytes: what the offer said.
        wanted: what the offer announced, by name; None: nothing.

    Raises:
        RefitError: they do not fit the offer, or their tensors.
    """
    pieces = []
    for entry in _entries(header):
        *spec, start, stop, direct = entry
        piece = Piece(read_spec(spec), start, stop, direct)
        check_spec(piece.spec, wanted)
        if not 0 <= start <= stop <= elements(piece.spec):
            raise RefitError(f"{piece.spec[0]}: elements {start} to {stop} came of {elements(piece.spec)}.")
        pieces.append(piece)
    if len(pieces) > 1 and sum(piece.bytes for piece in pieces) > bucket_bytes:
        raise RefitError(f"bucket_bytes: a message of more than the {bucket_bytes} bytes of the offer came.")
    return pieces


def _entries(header: Mapping[str, Any]) -> list[list[Any]]:
    entries = header.get("pieces")
    kinds = [str, str, list, int, int, bool]
    if not isinstance(entries, list) or not all(isinstance(e, list) and [*map(type, e)] == kinds for e in entries):
        raise RefitError("pieces: no list of [name, dtype, shape, start, stop, direct].")
    return entries


def pack_header(header: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """uint8 [HEADER_BYTES], and what did not fit into it."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text = len(text).to_bytes(LENGTH_BYTES, "little") + text
    first = bytearray(text[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"))
    rest = bytearray(text[HEADER_BYTES:])
    return torch.frombuffer(first, dtype=torch.uint8), torch.frombuffer(rest, dtype=torch.uint8) if rest else None


def rest_bytes(first: Tensor) -> int:
    """Bytes of a header's second broadcast, from its first.

    Raises:
        RefitError: it says more than any header has: this is no header.
    """
    length = int.from_bytes(first[:LENGTH_BYTES].numpy().tobytes(), "little")
    if length > MOST_HEADER_BYTES:
        raise RefitError(f"A refit's header of {length} bytes was announced; at most {MOST_HEADER_BYTES} are taken.")
    return max(0, LENGTH_BYTES + length - HEADER_BYTES)


def read_header(first: Tensor, rest: Tensor | None) -> dict[str, Any]:
    """The header out of its broadcasts, which lie in main memory.

    Raises:
        RefitError: it is no JSON object.
    """
    text = first.numpy().tobytes()
    length = int.from_bytes(text[:LENGTH_BYTES], "little")
    text = (text + (rest.numpy().tobytes() if rest is not None else b""))[LENGTH_BYTES : LENGTH_BYTES + length]
    try:
        header = json.loads(text)
    except ValueError as error:
        raise RefitError(f"A refit's header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise RefitError("A refit's header is no JSON object.")
    return header
