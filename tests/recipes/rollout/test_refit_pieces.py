"""What a refit is made of: offers, checksums, and messages; no process, no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.checksums import CHUNK_WORDS, SUM64, XXH3, Summing, checksum, digest
from recipes.rollout.refit.frames import (
    DIRECT_BYTES,
    HEADER_BYTES,
    bucket_header,
    cut,
    pack_header,
    read_header,
    read_pieces,
    rest_bytes,
)
from recipes.rollout.refit.offer import DTYPES, Group, Offer, check_spec, spec_of
from recipes.rollout.refit.routes import Own, Route, choose
from recipes.rollout.refit.servers import Peer, Reply

OFFER = Offer(
    version=7, transport="collective", bucket_bytes=64, checksum="xxh3",
    tensors=[("a.weight", "bfloat16", (3, 4)), ("scale", "float32", ())],
    timeout_s=60.0, group=Group("some name", "127.0.0.1", 4000, 3, 1, turn=2),
)  # fmt: skip


def test_an_offer_survives_the_wire() -> None:
    assert Offer.from_json(json.loads(json.dumps(OFFER.to_json()))) == OFFER
    files = Offer(0, "files", 1, "sum64", None, 0.5, folder="/dev/shm/crossthink-refit-x")
    assert Offer.from_json(json.loads(json.dumps(files.to_json()))) == files


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", -1), ("version", True), ("version", "1"), ("transport", "pigeon"), ("bucket_bytes", 0),
        ("checksum", "crc"), ("checksum", ["xxh3"]), ("tensors", {}), ("tensors", [["a", "int3", [1]]]),
        ("tensors", [["a", "float32", [-1]]]), ("tensors", [["a", "float32", [1]], ["a", "float32", [1]]]),
        ("timeout_s", 0), ("timeout_s", float("nan")), ("group", None), ("group", []), ("folder", ""),
        ("colour", "red"),
    ],
)  # fmt: skip
def test_a_wrong_field_of_an_offer_is_named(field: str, value: Any) -> None:
    with pytest.raises(RefitError, match=field):
        Offer.from_json(OFFER.to_json() | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("port", 0), ("port", 70000), ("world", 1), ("first", 0), ("first", 3), ("host", 5), ("name", "\0"),
     ("turn", -1), ("backend", "mpi"), ("token", "x")],
)  # fmt: skip
def test_a_wrong_field_of_a_group_is_named(field: str, value: Any) -> None:
    offer = OFFER.to_json()
    with pytest.raises(RefitError, match=field):
        Offer.from_json(offer | {"group": offer["group"] | {field: value}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*OFFER.to_json(), "other"]), JSON), JSON, st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_json_makes_an_offer_fail_in_another_way(changes: dict[str, Any], group: Any, nested: bool) -> None:
    body = OFFER.to_json() | changes
    if nested and isinstance(group, dict):
        body["group"] = OFFER.to_json()["group"] | group
    for value in (body, group):
        try:
            assert isinstance(Offer.from_json(value), Offer)
        except RefitError:
            continue


def test_xxh3_is_that_of_the_bytes_also_of_bfloat16() -> None:
    tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    raw = tensor.view(torch.int16).numpy().tobytes()
    assert checksum(tensor, XXH3) == xxhash.xxh3_64_intdigest(raw)
    assert checksum(tensor.t(), XXH3) == checksum(tensor.t().contiguous(), XXH3) != checksum(tensor, XXH3)


@given(st.data())
@settings(max_examples=80, deadline=None)
@pytest.mark.parametrize("kind", [XXH3, SUM64])
def test_a_checksum_sees_every_changed_bit_and_every_exchange(kind: str, data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.binary(min_size=1, max_size=70)))
    whole = checksum(torch.frombuffer(bytearray(raw), dtype=torch.uint8), kind)
    place, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(raw)
    changed[place] ^= 1 << bit
    assert checksum(torch.frombuffer(changed, dtype=torch.uint8), kind) != whole
    other = data.draw(st.integers(0, len(raw) - 1))
    exchanged = bytearray(raw)
    exchanged[place], exchanged[other] = raw[other], raw[place]
    same = raw[place] == raw[other]
    assert (checksum(torch.frombuffer(exchanged, dtype=torch.uint8), kind) == whole) is same
    assert checksum(torch.frombuffer(raw + b"\0", dtype=torch.uint8), kind) != whole


def test_sum64_sees_signs_that_changed_places() -> None:
    # Words that differ in their topmost bit alone, an even distance apart: a plain weighted sum would not see it.
    words = torch.ones(16, dtype=torch.int64)
    sums = set()
    for place in range(16):
        one = words.clone()
        one[place] = one[place] | -(2**63)
        sums.add(checksum(one, SUM64))
    assert len(sums) == 16


def test_sum64_goes_over_chunks_and_uneven_starts() -> None:
    tensor = torch.randn(2 * CHUNK_WORDS + 5, dtype=torch.float32)
    whole = checksum(tensor, SUM64)
    shifted = torch.empty(len(tensor) * 4 + 2, dtype=torch.uint8)[2:]  # as a bfloat16 slice may start
    shifted.copy_(tensor.view(torch.uint8))
    assert checksum(shifted, SUM64) == whole
    halves = torch.cat([tensor[2 * CHUNK_WORDS :], tensor[: 2 * CHUNK_WORDS]])
    assert checksum(halves, SUM64) != whole


def test_the_digest_of_a_set_knows_names_and_not_the_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert len({digest({"a": 1, "b": 2}), digest({"a": 2, "b": 1}), digest({"a": 1}), digest({"a": 1, "c": 2})}) == 4


def test_summing_beside_the_caller_gives_the_checksums() -> None:
    tensors = {str(n): torch.full((n,), float(n)) for n in range(30)}
    summing = Summing(XXH3)
    for name, tensor in tensors.items():
        summing.add(name, tensor)
    assert summing.results() == {name: checksum(tensor, XXH3) for name, tensor in tensors.items()}
    summing.close()


@given(
    st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 40), max_size=2), st.integers(1, 3000), st.integers(0, 1)
)
@settings(max_examples=150, deadline=None)
def test_pieces_put_together_are_the_tensor(dtype: str, shape: list[int], bucket: int, longer: int) -> None:
    tensor = (torch.randn(shape) * 100).to(DTYPES[dtype])
    pieces = list(cut(spec_of("some.name", tensor), bucket))
    assert all(piece.bytes <= max(bucket, 4) for piece in pieces)
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    header = {**bucket_header(pieces), "padding": "x" * HEADER_BYTES * longer}
    first, rest = pack_header(header)
    assert rest_bytes(first) == (0 if rest is None else rest.numel())
    read = read_pieces(read_header(first, rest), 10**9, {"some.name": spec_of("some.name", tensor)})
    target = torch.zeros_like(tensor)
    for piece in read:
        piece.part(target).copy_(piece.part(tensor))
    assert read == pieces and torch.equal(target, tensor)


def test_large_pieces_travel_on_their_own() -> None:
    spec = ("w", "bfloat16", (DIRECT_BYTES // 2 * 3 + 1,))
    assert [piece.direct for piece in cut(spec, DIRECT_BYTES)] == [True, True, True, False]
    assert [piece.direct for piece in cut(spec, DIRECT_BYTES - 2)] == [False] * 4


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([["w", "float32", [4], 0, 5, False]], "0 to 5"),
        ([["w", "float32", [4], 3, 2, False]], "3 to 2"),
        ([["w", "float32", [5], 0, 5, False]], "announced"),
        ([["v", "float32", [4], 0, 4, False]], "announced"),
        ([["w", "float32", [4], 0, 4, False]] * 2, "bucket_bytes"),
        ([["w", "float32", [4], 0, "4", False]], "pieces"),
        ([["w", "float32"]], "pieces"),
        (None, "pieces"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(pieces: Any, why: str) -> None:
    with pytest.raises(RefitError, match=why):
        read_pieces({"kind": "bucket", "pieces": pieces}, 16, {"w": ("w", "float32", (4,))})


def test_what_is_no_header_is_refused() -> None:
    noise = torch.full((HEADER_BYTES,), 255, dtype=torch.uint8)
    with pytest.raises(RefitError, match="header"):
        rest_bytes(noise)
    noise[:8] = torch.tensor([3, 0, 0, 0, 0, 0, 0, 0])
    with pytest.raises(RefitError, match="no JSON"):
        read_header(noise, None)


def test_weights_of_other_types_do_not_travel() -> None:
    with pytest.raises(RefitError, match=r"a: .*int64.*bfloat16"):
        spec_of("a", torch.zeros(1, dtype=torch.int64))
    check_spec(("a", "float32", (1,)), None)


HERE = Own("2.13.0", None, "gloo", "here")


def peer(**changes: Any) -> Peer:
    return Peer(**{"torch": "2.13.0", "nccl": None, "backend": "gloo", "ranks": 1, "machine": "here",
                   "weights_dir": "/dev/shm"} | changes)  # fmt: skip


def test_the_way_to_a_server() -> None:
    gpu = Own("2.13.0", "2.27.5", "nccl", "here")
    assert choose("u", peer(), HERE, "auto", None) == Route("collective")
    assert choose("u", peer(machine="there"), HERE, "auto", None) == Route("collective")
    assert choose("u", peer(nccl="2.27.5", backend="nccl"), gpu, "collective", None) == Route("collective")
    assert choose("u", peer(nccl="2.19.3"), HERE, "auto", None) == Route("collective")  # gloo needs no NCCL
    for own, changes, words in (
        (HERE, {"torch": "2.9.1"}, ["torch", "2.13.0", "2.9.1"]),
        (HERE, {"backend": "nccl", "nccl": "2.27.5"}, ["backend", "gloo", "nccl"]),
        (gpu, {"backend": "nccl", "nccl": "2.19.3"}, ["NCCL", "2.27.5", "2.19.3"]),
    ):
        route = choose("u", peer(**changes), own, "auto", None)
        assert isinstance(route, Route) and route.transport == "files" and str(route.folder) == "/dev/shm"
        assert all(word in (route.instead or "") for word in words)
        with pytest.raises(RefitError) as raised:
            choose("u", peer(**changes), own, "collective", None)
        assert all(word in str(raised.value) for word in words)
    assert choose("u", peer(), HERE, "files", "/shared") == Route("files", Path("/shared"))
    far = choose("u", peer(machine="there"), HERE, "files", None)
    assert isinstance(far, str) and "weights_dir" in far
    assert isinstance(choose("u", peer(machine="there"), HERE, "files", "/shared"), Route)


def test_what_a_reply_says_is_held_to_what_was_sent() -> None:
    assert Reply(200, "", 3, "abc").fault(3, "abc") is None
    assert "version 2" in (Reply(200, "", 2, "abc").fault(3, "abc") or "")
    assert "checksum is abd" in (Reply(200, "", 3, "abd").fault(3, "abc") or "")
    assert Reply(409, "busy").fault(3, "abc") == "answered 409: busy"
    assert Reply(None, "gone").fault(3, "abc") == "gone"
