"""Intervals over seeds, and over seeds and questions. Pure; scipy is imported where a quantile is wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from recipes.evaluation.intervals import LEVEL, Interval


def t_interval(values: Sequence[float]) -> Interval | None:
    """The 95 % t-interval of the mean of a few values, one a seed; None of fewer than two."""
    count = len(values)
    if count < 2:
        return None
    middle = math.fsum(values) / count
    variance = math.fsum((value - middle) ** 2 for value in values) / (count - 1) / count
    return _around(middle, variance, count - 1)


def seeds_and_questions_interval(differences: Mapping[str, np.ndarray]) -> tuple[float, Interval | None]:
    """A mean difference and its 95 % interval, over seeds and questions.

    The mean is the plain mean over the groups (sources, benchmarks) of their questions' means. Two things make it
    vary. Other seeds: the variance of the seeds' means, over the number of seeds; what differs from seed to seed on one
    question is in it. Other questions: the part of a question's difference that all seeds share, estimated within each
    group as in a two-way analysis of variance (mean square of questions less that of the residual). Both are added; the
    degrees of freedom are Satterthwaite's.

    Args:
        differences: of each group an array [seed, question] of one arm's accuracy less the other's, same seed and
            question. At least one question a group.

    Returns:
        The mean; the interval, or None with fewer than two seeds: nothing is known of other seeds then.
    """
    groups = list(differences.values())
    seeds = groups[0].shape[0]
    by_seed = np.mean([group.mean(axis=1) for group in groups], axis=0)
    middle = float(by_seed.mean())
    if seeds < 2:
        return middle, None
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    of_questions = sum(_shared_variance(group) / group.shape[1] for group in groups) / len(groups) ** 2
    variance = of_seeds + of_questions
    freedom_of_questions = max(1, sum(group.shape[1] - 1 for group in groups))
    parts = of_seeds**2 / (seeds - 1) + of_questions**2 / freedom_of_questions
    return middle, _around(middle, variance, variance**2 / parts if parts else math.inf)


def _shared_variance(group: np.ndarray) -> float:
    """Variance between questions of what the seeds share, from an array [seed, question]."""
    seeds, questions = group.shape
    if questions < 2:
        return 0.0
    of_question = group.mean(axis=0)
    between = seeds * float(of_question.var(ddof=1))
    rest = group - of_question - group.mean(axis=1, keepdims=True) + group.mean()
    residual = float((rest**2).sum()) / ((seeds - 1) * (questions - 1))
    return max(0.0, (between - residual) / seeds)


def _around(middle: float, variance: float, freedom: float) -> Interval:
    if variance == 0:
        return middle, middle
    from scipy.stats import t

    reach = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(variance)
    return middle - reach, middle + reach
