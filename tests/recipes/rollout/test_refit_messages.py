"""The broadcasts of a refit over a wire that can be tampered with: what arrives, in what pieces, what is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refit_helpers import BUCKET, SHAPES, sums, weights
from torch import Tensor

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.checksums import checksum, digest
from recipes.rollout.refit.collective import CollectiveReader, CollectiveWriter
from recipes.rollout.refit.frames import HEADER_BYTES
from recipes.rollout.refit.offer import DTYPES, Offer
from recipes.rollout.refit.source import Reading

SPECS = [(name, dtype, shape) for name, (dtype, shape) in SHAPES.items()]


class Wire:
    """In a channel's place: what is broadcast while `sending` is kept, and then given out in order."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.sending, self.kept = True, []

    def broadcast(self, tensor: Tensor, left_s: float) -> None:
        assert left_s > 0
        if self.sending:
            self.kept.append(tensor)
        else:
            tensor.copy_(self.kept.pop(0))

    def wait(self, work: None, until: float, look: object = None) -> None:
        # Read while it is still the sender's turn: buffers are used again after it.
        self.kept = [tensor.clone() for tensor in self.kept]


def sent(tensors: Iterable[tuple[str, Tensor]], claimed: dict[str, int], bucket_bytes: int = BUCKET) -> Wire:
    """A wire with a whole refit on it."""
    wire = Wire()
    writer = CollectiveWriter(wire, bucket_bytes, until=float("inf"), look=lambda: None)  # type: ignore[arg-type]
    for name, tensor in tensors:
        writer.send(name, tensor)
    writer.finish(claimed)
    wire.sending = False
    return wire


def reading(
    wire: Wire, own: dict[str, Tensor] | None = None, specs: list | None = SPECS, bucket: int = BUCKET
) -> Reading:
    offer = Offer(1, "collective", bucket, "xxh3", specs, 60.0)
    return Reading(CollectiveReader(wire, offer, own or {}).read())  # type: ignore[arg-type]


def payloads(wire: Wire) -> list[int]:
    """Places on the wire of what is no header."""
    return [place for place, tensor in enumerate(wire.kept) if tensor.numel() != HEADER_BYTES]


def test_all_kinds_of_tensors_arrive_in_place_or_anew() -> None:
    wire = sent(weights(1), sums(1))
    assert max(tensor.numel() for tensor in wire.kept) <= BUCKET
    own = {name: torch.zeros(shape, dtype=DTYPES[dtype]) for name, dtype, shape in SPECS}
    own["norm"], own["layer.0.w"] = own["norm"].float(), own["layer.0.w"].t().contiguous().t()
    del own["scale"]
    before = {name: tensor.data_ptr() for name, tensor in own.items()}
    read = reading(wire, own)
    found = dict(read)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(1)) and found.keys() == SHAPES.keys()
    in_place = {name for name in own if found[name] is own[name] and own[name].data_ptr() == before[name]}
    assert in_place == own.keys() - {"norm", "layer.0.w"}
    assert not own["layer.0.w"].any()
    assert read.checksum == digest(sums(1)) and read.tensors == len(SHAPES) and wire.kept == []
    with pytest.raises(StopIteration):
        next(read)
    assert read.checksum == digest(sums(1))


@given(
    st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 9), max_size=3)), max_size=12),
    st.integers(1, 200),
)
@settings(max_examples=60, deadline=None)
def test_any_set_arrives_whatever_the_bucket(shapes: list[tuple[str, list[int]]], bucket: int) -> None:
    tensors = {str(n): torch.randn(shape).to(DTYPES[dtype]) for n, (dtype, shape) in enumerate(shapes)}
    claimed = {name: checksum(tensor, "xxh3") for name, tensor in tensors.items()}
    read = reading(sent(tensors.items(), claimed, bucket), specs=None, bucket=bucket)
    found = dict(read)
    assert list(found) == list(tensors) and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert read.checksum == digest(claimed)


def test_one_changed_bit_anywhere_is_found() -> None:
    count = len(payloads(sent(weights(1), sums(1))))
    assert count > 10
    for number in range(0, count, 3):
        wire = sent(weights(1), sums(1))
        wire.kept[payloads(wire)[number]][-1] ^= 1
        with pytest.raises(RefitError, match="checksum"):
            list(reading(wire))


@pytest.mark.parametrize(
    ("change", "specs", "why"),
    [
        (lambda all_: all_[:-1], SPECS, "lm_head was announced"),
        (lambda all_: all_[:-1], None, "lm_head did not come"),
        (lambda all_: [*all_, ("ghost", torch.zeros(1))], SPECS, "ghost came as"),
        (lambda all_: [*all_, ("ghost", torch.zeros(1))], None, "ghost came, and was not sent"),
        (lambda all_: [(n, t[:-1].contiguous() if n == "norm" else t) for n, t in all_], SPECS, "norm came as"),
        (lambda all_: [(n, t.float() if n == "norm" else t) for n, t in all_], SPECS, "norm came as"),
        (lambda all_: [(n, t.float() if n == "norm" else t) for n, t in all_], None, "norm: checksum"),
        (lambda all_: [*all_, all_[1]], SPECS, "norm came twice"),
    ],
)
def test_a_set_that_is_not_the_announced_one_is_refused(
    change: Callable[[list], list], specs: list | None, why: str
) -> None:
    wire = sent(change(list(weights(1))), sums(1))
    with pytest.raises(RefitError, match=why):
        list(reading(wire, specs=specs))


def test_a_trainer_that_gives_up_says_why() -> None:
    wire = Wire()
    writer = CollectiveWriter(wire, BUCKET, until=float("inf"), look=lambda: None)  # type: ignore[arg-type]
    for name, tensor in list(weights(1))[:5]:
        writer.send(name, tensor)
    writer.abort("out of memory")
    wire.sending = False
    with pytest.raises(RefitError, match="out of memory"):
        list(reading(wire))
