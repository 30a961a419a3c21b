"""95 % bootstrap intervals of means over questions: how far a figure could move with other questions of the kind."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]
RESAMPLES = 10_000
LEVEL = 0.95
_CELLS = 4_000_000  # counts held at once: 32 MB


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """The percentile bootstrap interval of the mean of `values`, one value a question; None of none.

    The order of the values plays no part.
    """
    return percentiles(resampled_means(values, seed)) if len(values) else None


def average_interval(groups: Sequence[Sequence[float]], seed: int = 0) -> Interval | None:
    """The interval of the plain mean of the groups' means, each group resampled by itself; None where one is empty.

    A benchmark is a group: its questions stand for those it could have had, the benchmarks themselves are given.
    """
    if not groups or not all(len(group) for group in groups):
        return None
    means = [resampled_means(group, seed + place) for place, group in enumerate(groups)]
    return percentiles(np.mean(means, axis=0))


def resampled_means(values: Sequence[float], seed: int = 0) -> np.ndarray:
    """Means of `RESAMPLES` resamples of `values` with replacement.

    How often each distinct value is drawn is multinomial, so a resample costs as much as there are distinct values: a
    question right in none, one, two or three of three runs gives four of them, however many questions there are.

    Args:
        values: at least one.
        seed: of the draws.
    """
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    draws = np.random.default_rng(seed)
    shares = counts / counts.sum()
    block = max(1, _CELLS // len(distinct))
    means = [
        draws.multinomial(len(values), shares, size=min(block, RESAMPLES - start)) @ distinct / len(values)
        for start in range(0, RESAMPLES, block)
    ]
    return np.concatenate(means)


def percentiles(means: np.ndarray) -> Interval:
    """The bounds between which the middle `LEVEL` of `means` lie."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean, the same whatever the order; None of none."""
    return math.fsum(values) / len(values) if len(values) else None


def resampled_ratios(pairs: Sequence[tuple[float, float]], seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Sums of first by sums of second members over resamples of `pairs`: the mean of a quantity that each question has
    a different number of, such as tokens of right answers. The second members are above 0."""
    distinct, counts = np.unique(np.asarray(pairs, dtype=np.float64), axis=0, return_counts=True)
    draws = np.random.default_rng(seed)
    block = max(1, _CELLS // len(distinct))
    found = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        sums = draws.multinomial(len(pairs), counts / counts.sum(), size=size) @ distinct
        found.append(sums[:, 0] / sums[:, 1])
    return np.concatenate(found)
