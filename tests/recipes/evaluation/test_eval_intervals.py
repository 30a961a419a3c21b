"""Bootstrap intervals: as scipy has them, as the binomial has them, and whatever the order."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.evaluation import intervals
from recipes.evaluation.intervals import average_interval, bootstrap_interval, mean

stats = pytest.importorskip("scipy.stats", reason="scipy is in the extra `eval`")
THIRDS = st.lists(st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0]), min_size=1, max_size=300)


def values(count, shares, seed=1):
    return np.random.default_rng(seed).choice([0, 1 / 3, 2 / 3, 1], size=count, p=shares)


def scipy_interval(sample):
    found = stats.bootstrap((sample,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(7))
    return found.confidence_interval


@pytest.mark.parametrize(
    ("count", "shares"),
    [(40, (0.4, 0.1, 0.1, 0.4)), (500, (0.1, 0.2, 0.3, 0.4)), (3000, (0.7, 0, 0, 0.3)), (198, (0.05, 0, 0, 0.95))],
)
def test_as_scipy(count, shares):
    sample = values(count, shares)
    error = sample.std() / math.sqrt(count)
    # The bounds are quantiles of 10,000 draws: each is known to about 2.7 % of the standard error.
    assert bootstrap_interval(sample) == pytest.approx(scipy_interval(sample), abs=0.15 * error)


def test_paired_differences_as_scipy():
    one, other = values(800, (0.4, 0.1, 0.1, 0.4), 2), values(800, (0.3, 0.1, 0.1, 0.5), 3)
    other[:500] = one[:500]

    def difference(a, b, axis):
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    found = stats.bootstrap(
        (other, one), difference, paired=True, vectorized=True, method="percentile", n_resamples=10_000,
        rng=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    error = (other - one).std() / math.sqrt(800)
    assert bootstrap_interval(other - one) == pytest.approx(found, abs=0.15 * error)


@pytest.mark.parametrize(("right", "count"), [(30, 40), (7000, 14_042), (150, 198)])
def test_right_or_wrong_is_the_binomial(right, count):
    low, high = bootstrap_interval([1.0] * right + [0.0] * (count - right))
    exact = stats.binom.ppf([0.025, 0.975], count, right / count) / count
    spread = math.sqrt(right / count * (1 - right / count) / count)
    assert (low, high) == pytest.approx(tuple(exact), abs=max(1 / count, 0.1 * spread))


def test_it_covers_the_truth():
    draws = np.random.default_rng(5)
    covered = 0
    for seed in range(300):
        low, high = bootstrap_interval((draws.random(200) < 0.6).astype(float), seed)
        covered += low <= 0.6 <= high
    assert 0.90 <= covered / 300 <= 0.985


@settings(deadline=None)
@given(THIRDS, st.randoms(use_true_random=False))
def test_it_holds_the_mean_whatever_the_order(sample, random):
    interval, middle = bootstrap_interval(sample), mean(sample)
    assert interval[0] - 1e-12 <= middle <= interval[1] + 1e-12
    assert min(sample) - 1e-12 <= interval[0] and interval[1] <= max(sample) + 1e-12
    shuffled = list(sample)
    random.shuffle(shuffled)
    assert bootstrap_interval(shuffled) == interval and mean(shuffled) == middle


def test_many_distinct_values_are_drawn_in_blocks(monkeypatch):
    sample = np.random.default_rng(3).normal(size=400)
    whole = bootstrap_interval(sample)
    monkeypatch.setattr(intervals, "_CELLS", 400 * 33)
    assert bootstrap_interval(sample) == pytest.approx(whole, abs=0.15 * sample.std() / 20)
    assert len(intervals.resampled_means(sample)) == intervals.RESAMPLES


def test_an_average_of_groups():
    groups = [values(50, (0.5, 0, 0, 0.5), 1), values(2000, (0.2, 0.1, 0.1, 0.6), 2)]
    low, high = average_interval(groups)
    middle = np.mean([group.mean() for group in groups])
    error = math.sqrt(sum(group.var() / len(group) for group in groups)) / 2  # the groups are independent
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.15 * error)
    one = average_interval([groups[0]])
    assert one == bootstrap_interval(groups[0])


def test_of_nothing_nothing_is_known():
    assert bootstrap_interval([]) is mean([]) is average_interval([]) is average_interval([[1.0], []]) is None
    assert bootstrap_interval([1.0]) == (1.0, 1.0)
