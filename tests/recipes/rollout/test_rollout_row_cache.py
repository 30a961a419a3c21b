"""The cache's rows, the runs that attention reads them in, and how prompts get into them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.rollout.local import prefill
from recipes.rollout.local.row_cache import COLUMN_STEP, ROW_STEP, RowCache
from recipes.rollout.local.spans import BLOCK, padding, spans


def filled(rows, columns):
    """A cache in which no two cells are alike."""
    cache = RowCache(2, 3, 4, torch.device("cpu"), torch.float32)
    cache.reserve(rows, columns)
    for number, tensor in enumerate((*cache.keys, *cache.values)):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + 1e6 * number)
    return cache


def test_room_comes_in_coarse_steps_and_what_is_there_stays():
    cache = filled(5, 7)
    assert (cache.rows, cache.columns) == (ROW_STEP, COLUMN_STEP)
    before = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    cache.reserve(ROW_STEP, COLUMN_STEP)
    assert all(torch.equal(a, b) for a, b in zip((*cache.keys, *cache.values), before, strict=True))
    cache.reserve(ROW_STEP + 1, COLUMN_STEP + 1)
    assert (cache.rows, cache.columns) == (2 * ROW_STEP, 2 * COLUMN_STEP)
    for now, was in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(now[:ROW_STEP, :, :COLUMN_STEP], was)
        assert not now[ROW_STEP:].any() and not now[:, :, COLUMN_STEP:].any()  # finite, whatever memory held


def test_more_columns_for_the_few_that_are_left():
    """A long sample at the end must not take room for a whole batch of them."""
    cache = filled(4 * ROW_STEP, 1)
    first = cache.keys[1][:3].clone()
    cache.reserve(3, COLUMN_STEP + 1)
    assert (cache.rows, cache.columns) == (ROW_STEP, 2 * COLUMN_STEP)
    assert torch.equal(cache.keys[1][:3, :, :COLUMN_STEP], first)
    cache.clear()
    assert (cache.rows, cache.columns) == (0, 0)


@given(st.permutations(range(6)), st.integers(1, 6), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_copies_read_all_rows_before_they_write_any(order, count, width):
    """A permutation of rows is one copy."""
    cache = filled(6, 9)
    before = [tensor.clone() for tensor in (*cache.keys, *cache.values)]
    targets, sources = torch.arange(count), torch.tensor(order[:count])
    cache.copy(targets, sources, width)
    for now, was in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(now[targets, :, :width], was[sources, :, :width])
        assert torch.equal(now[:, :, width:], was[:, :, width:])
        assert torch.equal(now[count:], was[count:])


LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=200).map(np.array)


@given(LENGTHS, st.sampled_from([0, 100, 512, 16384]))
@settings(deadline=None, max_examples=100)
def test_runs_hold_every_row_once_and_little_padding(lengths, call_cost):
    cuts = spans(lengths, call_cost)
    assert [row for first, stop in cuts for row in range(first, stop)] == list(range(len(lengths)))
    for first, stop in cuts:
        wasted = (stop - first) * lengths[first:stop].max() - lengths[first:stop].sum()
        assert stop - first <= BLOCK or wasted <= call_cost
    assert padding(lengths, cuts) == sum((s - f) * lengths[f:s].max() for f, s in cuts) - lengths.sum()


@pytest.mark.parametrize(
    ("lengths", "cuts"),
    [
        ([7] * 100, [(0, 100)]),  # alike: one call
        ([900] * 32 + [10] * 64, [(0, 32), (32, 96)]),
        ([900] * 20 + [10] * 44, [(0, 16), (16, 32), (32, 64)]),  # no run is cut within a block
        ([5], [(0, 1)]),
    ],
)
def test_runs_of_known_rows(lengths, cuts):
    assert spans(np.array(lengths), 512) == cuts


@given(st.lists(st.integers(1, 5000), max_size=60))
@settings(deadline=None, max_examples=60)
def test_prompts_are_read_in_passes_of_bounded_size(lengths):
    falling = sorted(lengths, reverse=True)
    portions = list(prefill._portions(falling))
    assert [i for start, stop in portions for i in range(start, stop)] == list(range(len(falling)))
    for start, stop in portions:
        assert stop == start + 1 or (stop - start) * falling[start] <= prefill.PREFILL_TOKENS
