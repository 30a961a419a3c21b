"""What the evaluations of a sweep found, by arm and seed: accuracies of questions, and tokens of right answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from recipes.evaluation.folder import read_evaluation
from recipes.evaluation.intervals import Interval, mean
from recipes.evaluation.questions import AGIEVAL_MATH
from recipes.evaluation.summary import Seen, per_question
from recipes.sweeping.statistics import seeds_and_questions_interval, t_interval

SIDES = ("gpr", "math")
MEASURES = ("mean", *SIDES)


@dataclass
class Result:
    """One evaluation.

    Attributes:
        accuracy: of every judged question, by its benchmark (a pool's source) and id; the mean over its runs.
        tokens_right: mean tokens of the right answers of each benchmark that has any.
        sides: gpr or math, of every benchmark.
        questions_sha256: identity of what was asked.
        where: the folder.
    """

    accuracy: dict[str, dict[str, float]] = field(default_factory=dict)
    tokens_right: dict[str, float] = field(default_factory=dict)
    sides: dict[str, str] = field(default_factory=dict)
    questions_sha256: str = ""
    where: str = ""

    def of_side(self, measure: str) -> list[str]:
        """The benchmarks whose plain mean is this measure: all, or those of one side."""
        return [name for name in self.accuracy if measure == "mean" or self.sides[name] == measure]

    def value(self, measure: str) -> float | None:
        """Plain mean over the benchmarks of the mean over their questions; None where there are none."""
        return _mean([_mean(list(self.accuracy[name].values())) for name in self.of_side(measure)])

    def tokens(self, measure: str) -> float | None:
        """Plain mean over the benchmarks of the mean tokens of their right answers."""
        return _mean([self.tokens_right[name] for name in self.of_side(measure) if name in self.tokens_right])


Results = Mapping[str, Mapping[int, Result]]
"""By arm and seed. What `base` found stands there as an arm."""


def read_result(folder: Path) -> Result:
    """What an evaluation found. AGIEval's math task is left out, as it enters no average.

    Raises:
        ConfigError, UserError: it is none, or not finished.
    """
    evaluation = read_evaluation(folder)
    found = result_of(evaluation.samples())
    found.questions_sha256 = str(evaluation.identity.get("questions"))
    found.where = str(folder)
    return found


def result_of(samples: Iterable[Mapping[str, Any]]) -> Result:
    """The result of judged answers, as lines of samples.jsonl; invalid verdicts are in nothing."""
    seen = [Seen.of(sample) for sample in samples if sample["benchmark"] != AGIEVAL_MATH]
    found, tokens = Result(), dict[str, list[int]]()
    for (name, ident), accuracy in per_question(seen, "accuracy").items():
        found.accuracy.setdefault(name, {})[ident] = accuracy
    for one in seen:
        name = one.question[0]
        if name in found.accuracy:
            found.sides[name] = one.domain
        if one.accuracy == 1 and one.tokens is not None:
            tokens.setdefault(name, []).append(one.tokens)
    found.tokens_right = {name: fmean(values) for name, values in tokens.items()}
    return found


def over_seeds(results: Mapping[int, Result], measure: str) -> dict[str, Any]:
    """Mean over seeds of an arm's measure or benchmark, its 95 % t-interval, and the values by seed."""
    values = {
        seed: one.value(measure) if measure in MEASURES else _mean(list(one.accuracy.get(measure, {}).values()))
        for seed, one in results.items()
    }
    return _over(values)


def tokens_over_seeds(results: Mapping[int, Result], measure: str) -> dict[str, Any]:
    """The same of the tokens of right answers."""
    return _over({seed: one.tokens(measure) for seed, one in results.items()})


def paired(one: Mapping[int, Result], other: Mapping[int, Result], measure: str) -> dict[str, Any] | None:
    """Accuracy of one arm less that of another, on what both were asked with the same seed; None of nothing."""
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    differences = {}
    for name in one[seeds[0]].of_side(measure):
        tables = [arm[seed].accuracy.get(name, {}) for seed in seeds for arm in (one, other)]
        common = sorted(set.intersection(*(set(table) for table in tables)))
        if common:
            differences[name] = np.array(
                [[one[s].accuracy[name][key] - other[s].accuracy[name][key] for key in common] for s in seeds]
            )
    if not differences:
        return None
    middle, interval = seeds_and_questions_interval(differences)
    return _difference(middle, interval, seeds, sum(group.shape[1] for group in differences.values()))


def paired_tokens(one: Mapping[int, Result], other: Mapping[int, Result], measure: str) -> dict[str, Any] | None:
    """Tokens of right answers of one arm less those of another: plain mean over the benchmarks where both have any.

    The interval is over seeds alone, as the right answers of two arms are to different questions.
    """
    by_seed = {}
    for seed in sorted(one.keys() & other.keys()):
        mine, theirs = one[seed].tokens_right, other[seed].tokens_right
        common = [name for name in one[seed].of_side(measure) if name in mine and name in theirs]
        gap = _mean([mine[name] - theirs[name] for name in common])
        if gap is not None:
            by_seed[seed] = gap
    if not by_seed:
        return None
    values = list(by_seed.values())
    return _difference(fmean(values), t_interval(values), list(by_seed), None)


def _difference(middle: float, interval: Interval | None, seeds: list[int], questions: int | None) -> dict[str, Any]:
    return {"difference": middle, "interval": interval and list(interval), "seeds": seeds, "questions": questions}


def _over(values: Mapping[int, float | None]) -> dict[str, Any]:
    known = {seed: value for seed, value in values.items() if value is not None}
    interval = t_interval(list(known.values()))
    return {
        "mean": _mean(list(known.values())),
        "interval": interval and list(interval),
        "n": len(known),
        "by_seed": {str(seed): value for seed, value in known.items()},
    }


def _mean(values: list[float | None] | list[float]) -> float | None:
    return mean([value for value in values if value is not None])
