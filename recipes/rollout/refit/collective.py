"""Weights as broadcasts: at most two messages are under way, so that gathering, sending and checking overlap.

A large tensor goes straight from the actor's memory into the engine's own; small ones share a buffer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed import Work

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.channel import Channel
from recipes.rollout.refit.checksums import Summing, check_sums, digest, read_sums, show_sums
from recipes.rollout.refit.frames import (
    HEADER_BYTES,
    Piece,
    bucket_header,
    cut,
    pack_header,
    read_header,
    read_pieces,
    rest_bytes,
)
from recipes.rollout.refit.offer import DTYPES, Offer, TensorSpec, spec_of

IN_FLIGHT = 2


class CalledOff(RefitError):
    """The sender gave the refit up in the middle; the process group still stands."""


@dataclass
class _Message:
    """Broadcasts under way, and the memory that they read or write."""

    works: list[Work]
    tensors: list[Tensor]
    pieces: list[Piece] = field(default_factory=list)
    buffer: Tensor | None = None


class _Buffers:
    """Memory for small pieces: one buffer for each message that is under way."""

    def __init__(self, device: torch.device):
        self._buffers = [torch.empty(0, dtype=torch.uint8, device=device) for _ in range(IN_FLIGHT)]
        self._turn = 0

    def take(self, size: int) -> Tensor:
        """uint8 [size]; the memory of the call before the last, where it is enough."""
        self._turn = (self._turn + 1) % IN_FLIGHT
        if self._buffers[self._turn].numel() < size:
            self._buffers[self._turn] = self._buffers[self._turn].new_empty(size)
        return self._buffers[self._turn][:size]


class CollectiveWriter:
    """The sender's end of one refit. Tensors that are given to it must keep their values until `finish` or `abort`.

    Args:
        channel: with the servers' seats in it.
        bucket_bytes: largest message.
        until: `time.monotonic()` at which whatever is not through has failed.
        look: called while it waits; what it raises comes out of every method.
    """

    def __init__(self, channel: Channel, bucket_bytes: int, until: float, look: Callable[[], None]):
        self._channel, self._bucket_bytes, self._until, self._look = channel, bucket_bytes, until, look
        self._pending: list[tuple[Piece, Tensor]] = []
        self._pending_bytes = 0
        self._flight: deque[_Message] = deque()
        self._buffers = _Buffers(channel.device)

    def send(self, name: str, tensor: Tensor) -> None:
        """Queue a contiguous tensor on the channel's device.

        Raises:
            ChannelError: a broadcast failed, or the deadline has passed.
        """
        for piece in cut(spec_of(name, tensor), self._bucket_bytes):
            if self._pending and self._pending_bytes + piece.bytes > self._bucket_bytes:
                self._flush()
            self._pending.append((piece, tensor))
            self._pending_bytes += piece.bytes

    def finish(self, sums: Mapping[str, int]) -> None:
        """Send what is left and the checksums of all tensors, and wait until everything is through.

        Raises:
            ChannelError: as `send`.
        """
        self._flush()
        self._flight.append(self._header({"kind": "end", "sums": show_sums(sums)}))
        self._drain(0)

    def abort(self, why: str) -> None:
        """Tell the servers that no more will come.

        Raises:
            ChannelError: as `send`.
        """
        self._pending.clear()
        self._flight.append(self._header({"kind": "abort", "why": why}))
        self._drain(0)

    def _flush(self) -> None:
        if not self._pending:
            return
        self._drain(IN_FLIGHT - 1)
        pieces = [piece for piece, _ in self._pending]
        message = self._header(bucket_header(pieces))
        small = [piece.part(tensor) for piece, tensor in self._pending if not piece.direct]
        parts = [piece.part(tensor) for piece, tensor in self._pending if piece.direct]
        size = sum(part.numel() for part in small)
        if size:
            parts.append(torch.cat(small, out=self._buffers.take(size)))
        for part in parts:
            self._post(message, part)
        self._flight.append(message)
        self._pending, self._pending_bytes = [], 0

    def _header(self, header: dict) -> _Message:
        message = _Message([], [])
        for part in pack_header(header):
            if part is not None:
                self._post(message, part.to(self._channel.device))
        return message

    def _post(self, message: _Message, part: Tensor) -> None:
        message.works.append(self._channel.broadcast(part, self._until - time.monotonic()))
        message.tensors.append(part)

    def _drain(self, left: int) -> None:
        while len(self._flight) > left:
            for work in self._flight[0].works:
                self._channel.wait(work, self._until, self._look)
            self._flight.popleft()


class CollectiveReader:
    """A seat's end of one refit.

    Args:
        channel: with the sender as rank 0.
        offer: what is announced.
        into: the engine's own tensors by name; those that fit are written in place.
    """

    def __init__(self, channel: Channel, offer: Offer, into: Mapping[str, Tensor]):
        self._channel, self._into = channel, into
        self._bucket_bytes = offer.bucket_bytes
        self._wanted = None if offer.tensors is None else {spec[0]: spec for spec in offer.tensors}
        self._until = time.monotonic() + offer.timeout_s
        self._sums = Summing(offer.checksum)
        self._landing: dict[str, tuple[Tensor, int]] = {}
        self._landed: set[str] = set()
        self._flight: deque[_Message] = deque()
        self._buffers = _Buffers(channel.device)

    def read(self) -> Generator[tuple[str, Tensor], None, str]:
        """(name, tensor) as they are whole. Returns the checksum of the set, which is then known to be right.

        Raises:
            ChannelError: a broadcast failed, or nothing came in time.
            RefitError: the sender gave up, or what came is not what was announced or sent.
        """
        try:
            while (header := self._header())["kind"] == "bucket":
                yield from self._finish(IN_FLIGHT - 1)
                self._receive(read_pieces(header, self._bucket_bytes, self._wanted))
            yield from self._finish(0)
            if header["kind"] == "abort":
                raise CalledOff(f"The trainer gave the refit up: {header.get('why')}")
            return self._verified(read_sums(header.get("sums")))
        finally:
            self._sums.close()

    def _header(self) -> dict:
        first = torch.empty(HEADER_BYTES, dtype=torch.uint8, device=self._channel.device)
        self._wait_for(first)
        first = first.cpu()
        rest = None
        if size := rest_bytes(first):
            rest = torch.empty(size, dtype=torch.uint8, device=self._channel.device)
            self._wait_for(rest)
            rest = rest.cpu()
        header = read_header(first, rest)
        if header.get("kind") not in ("bucket", "end", "abort"):
            raise RefitError(f"kind: {header.get('kind')!r} came; this server knows bucket, end and abort.")
        return header

    def _wait_for(self, tensor: Tensor) -> None:
        self._channel.wait(self._channel.broadcast(tensor, self._until - time.monotonic()), self._until)

    def _receive(self, pieces: list[Piece]) -> None:
        """Begin the broadcasts of a message."""
        for piece in pieces:
            self._expect(piece)
        parts = [piece.part(self._landing[piece.spec[0]][0]) for piece in pieces if piece.direct]
        buffer = self._buffers.take(sum(piece.bytes for piece in pieces if not piece.direct))
        if buffer.numel():
            parts.append(buffer)
        works = [self._channel.broadcast(part, self._until - time.monotonic()) for part in parts]
        self._flight.append(_Message(works, parts, pieces, buffer))

    def _expect(self, piece: Piece) -> None:
        """Have a place for a piece, and see that none is lost between it and the one before."""
        name = piece.spec[0]
        if name in self._landed:
            raise RefitError(f"{name} came twice.")
        target, reached = self._landing.get(name, (None, 0))
        if target is None:
            target = place_for(piece.spec, self._into, self._channel.device)
        if piece.start != reached:
            raise RefitError(f"{name}: element {piece.start} came where {reached} was due.")
        self._landing[name] = (target, piece.stop)
        if piece.is_last:
            self._landed.add(name)

    def _finish(self, left: int) -> Generator[tuple[str, Tensor], None, None]:
        while len(self._flight) > left:
            message = self._flight.popleft()
            for work in message.works:
                self._channel.wait(work, self._until)
            taken = 0
            for piece in message.pieces:
                target = self._landing[piece.spec[0]][0]
                if not piece.direct:
                    assert message.buffer is not None
                    piece.part(target).copy_(message.buffer[taken : taken + piece.bytes])
                    taken += piece.bytes
                if piece.is_last:
                    self._sums.add(piece.spec[0], target)
                    del self._landing[piece.spec[0]]
                    yield piece.spec[0], target

    def _verified(self, sent: dict[str, int]) -> str:
        if self._landing:
            raise RefitError(f"{min(self._landing)} did not come whole.")
        if self._wanted is not None and (missing := self._wanted.keys() - self._landed):
            raise RefitError(f"{min(missing)} was announced and did not come.")
        check_sums(self._sums.results(), sent)
        return digest(sent)


def place_for(spec: TensorSpec, into: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """The engine's own tensor of that name where it fits, else a new one. Written without autograd's knowledge."""
    name, dtype, shape = spec
    own = into.get(name)
    if own is not None and fits(own, spec) and own.device == device:
        return own
    return torch.empty(shape, dtype=DTYPES[dtype], device=device)


def fits(own: Tensor, spec: TensorSpec) -> bool:
    """Whether bytes of that dtype and shape can land in the tensor as they are."""
    return own.is_contiguous() and (own.dtype, tuple(own.shape)) == (DTYPES[spec[1]], spec[2])
