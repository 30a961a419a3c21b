"""Packing samples into padded micro-batches: every sample once, labels and mask where they belong."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.actors.interface import TokenizedSample
from recipes.actors.packing import micro_batches, packs
from recipes.rl.throughput import padding

PAD = 99


@st.composite
def samples(draw):
    """Samples with distinct ids, so that a misplaced one shows."""
    found, fresh = [], 100
    for prompt_length, length in draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=9)):
        ids = list(range(fresh, fresh + prompt_length + length))
        fresh += 100
        values = {"log_probs": torch.tensor([-float(i) for i in ids[prompt_length:]]), "weights": torch.ones(length)}
        found.append(TokenizedSample(ids, prompt_length, values))
    return found


@given(samples(), st.integers(1, 60))
@settings(deadline=None, max_examples=80)
def test_every_sample_once_and_within_the_budget(given_samples, budget):
    batches = micro_batches(given_samples, budget, PAD)
    assert sorted(i for indices, _ in batches for i in indices) == list(range(len(given_samples)))
    for indices, batch in batches:
        longest = max(len(given_samples[i].token_ids) for i in indices)
        assert batch.token_ids_bt.shape == (len(indices), longest - 1)
        assert len(indices) == 1 or len(indices) * longest <= budget


@given(samples(), st.integers(1, 60))
@settings(deadline=None, max_examples=80)
def test_what_stands_where(given_samples, budget):
    """Against a loop: position j of a row reads token j, is to predict token j + 1, and counts if that is response."""
    for indices, batch in micro_batches(given_samples, budget, PAD):
        for row, index in enumerate(indices):
            sample = given_samples[index]
            ids = sample.token_ids
            for j in range(batch.token_ids_bt.shape[1]):
                inside = j + 1 < len(ids)
                assert batch.token_ids_bt[row, j] == (ids[j] if inside else PAD)
                assert batch.labels_bt[row, j] == (ids[j + 1] if inside else PAD)
                counts = inside and j + 1 >= sample.prompt_length
                assert batch.mask_bt[row, j] == counts
                log_prob, weight = batch.per_token_bt["log_probs"][row, j], batch.per_token_bt["weights"][row, j]
                assert log_prob == (-float(ids[j + 1]) if counts else 0)
                assert weight == float(counts)
            assert batch.places[row][0] == row
            assert batch.labels_bt[batch.places[row]].tolist() == list(ids[sample.prompt_length :])
        assert batch.packed_lengths is None


@given(samples(), st.integers(1, 60))
@settings(deadline=None, max_examples=80)
def test_packed_rows_hold_what_padded_ones_do(given_samples, budget):
    """Sample by sample, without a position of padding, within the budget, and each only where it no longer fits."""
    alone = {i: batch for (i,), batch in micro_batches(given_samples, 1, PAD)}
    batches = micro_batches(given_samples, budget, PAD, packed=True)
    assert sorted(i for indices, _ in batches for i in indices) == list(range(len(given_samples)))
    for indices, batch in batches:
        lengths = [len(given_samples[i].token_ids) for i in indices]
        assert len(indices) == 1 or sum(lengths) <= budget
        assert list(batch.packed_lengths) == [length - 1 for length in lengths]
        assert batch.token_ids_bt.shape == (1, sum(batch.packed_lengths))
        for name in ("token_ids_bt", "labels_bt", "mask_bt"):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(alone[i], name) for i in indices], dim=1))
        for name, values_bt in batch.per_token_bt.items():
            assert torch.equal(values_bt, torch.cat([alone[i].per_token_bt[name] for i in indices], dim=1))
        for index, place in zip(indices, batch.places, strict=True):
            sample = given_samples[index]
            assert batch.labels_bt[place].tolist() == list(sample.token_ids[sample.prompt_length :])


def test_packed_where_they_fit_first():
    assert packs([3, 9, 5, 9, 3, 5], 12, packed=True) == [[1, 0], [3, 4], [2, 5]]


def padding_share(lengths, budget):
    positions, filler = padding(lengths, 1, budget)
    return filler / positions


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_padding_is_small_where_a_micro_batch_is_a_small_part_of_the_batch(data):
    """Any lengths from 400 to 700: at most 5 %, if a micro-batch holds at most a fifteenth of the samples.

    Micro-batches are cut from one falling line, so their spreads add up to at most 700 - 400. With at most k samples in
    each, padding is at most 300 (k - 1) positions beside 399 n real ones: at k = n / 15 that is 20 of 419.
    """
    lengths = data.draw(st.lists(st.sampled_from([400, 700]) | st.integers(400, 700), min_size=30, max_size=400))
    most = len(lengths) // 15
    budget = data.draw(st.integers(400, 400 * most + 399))
    assert max(len(pack) for pack in packs(lengths, budget)) <= most
    assert padding_share(lengths, budget) <= 0.05


@given(st.integers(0, 2**32), st.integers(300, 1100), st.integers(1400, 16384))
@settings(deadline=None, max_examples=80)
def test_padding_of_evenly_drawn_lengths(seed, count, budget):
    """400 to 700 tokens, from 300 samples on and up to the default budget, which no sample's cap enters."""
    draw = random.Random(seed)
    assert padding_share([draw.randint(400, 700) for _ in range(count)], budget) <= 0.05


def test_longest_first_and_stable():
    """Neighbours in length waste the least padding; equal lengths keep their order, so that a split is repeatable."""
    lengths = [3, 9, 5, 9, 3, 5]
    given_samples = [TokenizedSample(list(range(n)), 1) for n in lengths]
    packed = [indices for indices, _ in micro_batches(given_samples, 18, PAD)]
    assert packed == [[1, 3], [2, 5, 0], [4]]


def test_a_sample_longer_than_the_budget_stands_alone():
    given_samples = [TokenizedSample(list(range(n)), 1) for n in (40, 4, 4)]
    packed = [indices for indices, _ in micro_batches(given_samples, 10, PAD)]
    assert packed == [[0], [1, 2]]


def test_nothing_to_pack():
    assert micro_batches([], 100, PAD) == []


def test_types():
    sample = TokenizedSample((5, 6, 7), 1, {"x": torch.tensor([1.0, 2.0])})
    assert sample.response_length == 2
    ((_, batch),) = micro_batches([sample], 100, PAD)
    assert (batch.token_ids_bt.dtype, batch.labels_bt.dtype) == (torch.int64, torch.int64)
    assert (batch.mask_bt.dtype, batch.per_token_bt["x"].dtype) == (torch.bool, torch.float32)


def test_per_token_values_beyond_the_response_are_refused():
    sample = TokenizedSample([5, 6, 7], 1, {"x": torch.arange(3.0)})
    with pytest.raises(RuntimeError):
        micro_batches([sample], 100, PAD)
