"""Checksums of weights: xxh3 of tensors in main memory, sum64 of those on a GPU, and one of a whole set."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import xxhash
from torch import Tensor

from recipes.rollout.interface import RefitError

XXH3 = "xxh3"
SUM64 = "sum64"
KINDS = (XXH3, SUM64)
CHUNK_WORDS = 2**20
"""8-byte words that sum64 mixes at a time: 8 MiB of a tensor, and some times that of memory."""
ODD = 0x1E3779B97F4A7C15  # any odd number with bits all over
HELD = 8
"""Tensors at most that wait for their checksum, and so stay in memory."""


def bytes_of(tensor: Tensor) -> Tensor:
    """uint8 [bytes] view of a contiguous tensor's memory, wherever it is."""
    return tensor.detach().view(-1).view(torch.uint8)


def checksum(tensor: Tensor, kind: str) -> int:
    """A tensor's checksum: of its bytes in order, not of its shape or name.

    Args:
        tensor: on any device for sum64, in main memory for xxh3.
        kind: xxh3 or sum64.

    Returns:
        A number of 64 bits.
    """
    tensor = tensor.contiguous()
    return xxh3(tensor) if kind == XXH3 else int(sum64(tensor).item()) % 2**64


def xxh3(tensor: Tensor) -> int:
    """XXH3 (64 bit) of a contiguous tensor's bytes, read where they stand."""
    return xxhash.xxh3_64_intdigest(bytes_of(tensor).numpy())


@torch.no_grad()
def sum64(tensor: Tensor) -> Tensor:
    """int64 [] on the tensor's device: a weighted sum, modulo 2^64, of a contiguous tensor's mixed 8-byte words.

    Factors are odd, so that no single changed word goes unseen, and differ by place, so that an exchange does not.
    Words are mixed first, because a difference in the topmost bit alone would survive no even factor. It finds
    accidents; it is no defence against someone who wants two tensors to be alike.
    """
    flat = bytes_of(tensor)
    whole = flat.numel() // 8 * 8
    tail = flat.new_zeros(8)
    tail[: flat.numel() - whole] = flat[whole:]
    # Bytes of a bfloat16 slice may start at any even address; words must not.
    aligned = flat.data_ptr() % 8 == 0
    body = flat[:whole] if aligned else flat[:whole].clone()
    longest = max(1, min(CHUNK_WORDS, whole // 8))
    factors = _mixed(torch.arange(1, longest + 1, device=tensor.device) * ODD) | 1
    total = torch.full((), flat.numel(), dtype=torch.int64, device=tensor.device)
    for number, words in enumerate([*body.view(torch.int64).split(CHUNK_WORDS), tail.view(torch.int64)]):
        total += (_mixed(words) * factors[: len(words)]).sum() * ((2 * number * ODD + 1) % 2**62)
    return total


def digest(checksums: Mapping[str, int]) -> str:
    """One hex checksum of a whole set of tensors, whatever order they came in."""
    lines = "".join(f"{name} {value:016x}\n" for name, value in sorted(checksums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def show_sums(sums: Mapping[str, int]) -> dict[str, str]:
    """Checksums as JSON carries them."""
    return {name: f"{value:016x}" for name, value in sums.items()}


def read_sums(value: Any) -> dict[str, int]:
    """Checksums out of JSON.

    Raises:
        RefitError: it holds something else.
    """
    try:
        return {name: int(text, 16) for name, text in value.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise RefitError("sums: no object of checksums in hex.") from error


def check_sums(found: Mapping[str, int], sent: Mapping[str, int]) -> None:
    """Hold what came to what the sender says that it sent.

    Raises:
        RefitError: a tensor is missing, too many or other; names the first.
    """
    if differing := found.keys() ^ sent.keys():
        raise RefitError(f"{min(differing)} {'did not come' if min(differing) in sent else 'came, and was not sent'}.")
    for name in sorted(found):
        if found[name] != sent[name]:
            raise RefitError(
                f"{name}: checksum {found[name]:016x} came, {sent[name]:016x} was sent. Bytes were changed."
            )


class Summing:
    """Checksums of one tensor after the other, computed while the caller goes on. A tensor must keep its values.

    Args:
        kind: xxh3 or sum64.
    """

    def __init__(self, kind: str):
        self._kind = kind
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="refit-checksums")
        self._waiting: deque[Future[int]] = deque()
        self._found: dict[str, Future[int] | Tensor] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Have the checksum of a contiguous tensor computed."""
        if tensor.is_cuda:  # kernels run beside the caller as they are
            self._found[name] = sum64(tensor)
            return
        job = self._thread.submit(checksum, tensor, self._kind)
        self._found[name] = job
        self._waiting.append(job)
        if len(self._waiting) > HELD:
            self._waiting.popleft().result()

    def results(self) -> dict[str, int]:
        """All checksums by name, once they are there."""
        return {
            name: one.result() if isinstance(one, Future) else int(one.item()) % 2**64
            for name, one in self._found.items()
        }

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _mixed(words: Tensor) -> Tensor:
    # torch shifts int64 with the sign: the mask makes it a shift of the bits alone, and the mixing reversible.
    return words ^ ((words >> 29) & (2**35 - 1))
