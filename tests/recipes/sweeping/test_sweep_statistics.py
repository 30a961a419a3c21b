"""Intervals over seeds and questions, held to closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from recipes.sweeping.statistics import seeds_and_questions_interval, t_interval

SHARES = st.floats(-1, 1).map(lambda value: round(value, 3))


def t_of(values):
    """scipy's own t-interval of a mean."""
    return stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))


@given(st.lists(SHARES, min_size=2, max_size=6).filter(lambda values: len(set(values)) > 1))
@settings(max_examples=50, deadline=None)
def test_t_interval_is_scipys(values):
    assert t_interval(values) == pytest.approx(t_of(values))


def test_few_values():
    assert t_interval([]) is None and t_interval([0.5]) is None
    assert t_interval([0.5, 0.5]) == (0.5, 0.5)


def test_seeds_alone_where_all_questions_agree():
    seeds = [0.1, 0.3, 0.2]
    groups = {"a": np.tile(np.array(seeds)[:, None], 40), "b": np.tile(np.array(seeds)[:, None], 7)}
    middle, interval = seeds_and_questions_interval(groups)
    assert middle == pytest.approx(0.2)
    assert interval == pytest.approx(t_of(seeds))


def test_questions_alone_where_all_seeds_agree():
    questions = np.array([1.0, 0, 0, -1, 1, 1, 0, 1])
    middle, interval = seeds_and_questions_interval({"a": np.tile(questions, (3, 1))})
    assert middle == pytest.approx(questions.mean())
    assert interval == pytest.approx(t_of(questions))


def test_what_seeds_do_not_share_is_not_counted_twice():
    """Every question differs by seed and none by itself: only the seeds' means vary."""
    rng = np.random.default_rng(0)
    group = rng.choice([-1.0, 0, 1], size=(3, 4000))
    middle, interval = seeds_and_questions_interval({"a": group})
    low, high = t_of(group.mean(axis=1))
    assert (interval[1] - interval[0]) <= 1.5 * (high - low)
    assert interval[0] <= middle <= interval[1]


def test_one_seed_tells_nothing_of_others():
    assert seeds_and_questions_interval({"a": np.array([[1.0, 0.0]])}) == (0.5, None)


def test_groups_count_alike_whatever_their_size():
    groups = {"a": np.ones((2, 2)), "b": np.zeros((2, 100))}
    assert seeds_and_questions_interval(groups) == (0.5, (0.5, 0.5))


@given(arrays(float, (3, 12), elements=st.sampled_from([-1.0, 0.0, 1.0])))
@settings(max_examples=60, deadline=None)
def test_interval_holds_the_mean_and_turns_with_the_sign(group):
    middle, interval = seeds_and_questions_interval({"a": group})
    assert interval[0] <= middle <= interval[1]
    turned, other = seeds_and_questions_interval({"a": -group})
    assert turned == pytest.approx(-middle)
    assert (-other[1], -other[0]) == pytest.approx(interval)
    shuffled, same = seeds_and_questions_interval({"a": group[::-1, ::-1]})
    assert shuffled == pytest.approx(middle) and same == pytest.approx(interval)
    assert all(math.isfinite(bound) for bound in interval)


def test_coverage_of_a_true_difference():
    """Of 200 studies with seed and question effects about 95 % hold the truth."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        seeds, questions = rng.normal(0, 0.05, (3, 1)), rng.normal(0, 0.3, (1, 60))
        _, interval = seeds_and_questions_interval({"a": 0.1 + seeds + questions + rng.normal(0, 0.4, (3, 60))})
        held += interval[0] <= 0.1 <= interval[1]
    assert 180 <= held <= 199
