"""How often a smaller model solved each question, and which rows stay for it (the paper's difficulty filter). Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from recipes.evaluation.questions import Asked

BINS = 10  # of a histogram of more distinct pass rates than these


@dataclass(frozen=True)
class Mark:
    """What became of one question that was to be asked.

    Attributes:
        source: of the row.
        id: of the row.
        statuses: of the verdicts in the order of the samples; none where the prompt was too long.
        pass_rate: share of the valid verdicts with the right answer in the box, whatever the format; None where there
            is no valid one.
    """

    source: str
    id: str
    statuses: tuple[str, ...]
    pass_rate: float | None


@dataclass(frozen=True)
class Rule:
    """Which pass rates stay: those from `low` to `high`, both included."""

    low: float
    high: float

    def keeps(self, pass_rate: float) -> bool:
        """Whether a row of this pass rate stays."""
        return self.low <= pass_rate <= self.high


@dataclass
class Counts:
    """What became of the rows of a source. Every row is in one of the middle five.

    Attributes:
        rows_in: rows of the pool that was filtered.
        unasked: rows of other domains, which stay.
        too_long: rows whose prompt was too long to be asked, which stay.
        kept: rows asked, which stay.
        dropped: rows asked, which go for their pass rate.
        invalid: rows asked, which go because no answer to them could be judged (bad_gold, error).
        rows_out: rows that stay.
    """

    rows_in: int = 0
    unasked: int = 0
    too_long: int = 0
    kept: int = 0
    dropped: int = 0
    invalid: int = 0
    rows_out: int = 0

    def count(self, outcome: str) -> None:
        """Count a row by its outcome, one of the middle five."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        self.rows_in += 1
        self.rows_out += stays(outcome)

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def outcome(mark: Mark | None, rule: Rule) -> str:
    """Under which name of `Counts` a row goes; `mark` is None where it was not to be asked."""
    if mark is None:
        return "unasked"
    if not mark.statuses:
        return "too_long"
    if mark.pass_rate is None:
        return "invalid"
    return "kept" if rule.keeps(mark.pass_rate) else "dropped"


def stays(outcome: str) -> bool:
    """Whether a row of this outcome is in the filtered pool."""
    return outcome in ("unasked", "too_long", "kept")


def marks_of(asked: Sequence[Asked], samples: Iterable[Mapping[str, Any]]) -> list[Mark]:
    """The mark of every question, in their order.

    Args:
        asked: the questions.
        samples: judged answers, as lines of samples.jsonl; those of one question in the order of their runs.
    """
    statuses: dict[tuple[str, str], list[str]] = {}
    right: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        key, verdict = (sample["benchmark"], sample["id"]), sample["verdict"]
        statuses.setdefault(key, []).append(verdict["status"])
        if verdict["reward"] is not None:
            right.setdefault(key, []).append(float(verdict["accuracy"] or 0))
    found = []
    for one in asked:
        key = (one.benchmark, one.row.id)
        valid = right.get(key)
        rate = math.fsum(valid) / len(valid) if valid else None
        found.append(Mark(one.benchmark, one.row.id, tuple(statuses.get(key, ())), rate))
    return found


def histogram(rates: Iterable[float]) -> list[tuple[str, int]]:
    """Label and count of every pass rate; of ten equal bins where there are more distinct ones than that."""
    counts = Counter(rates)
    if len(counts) <= BINS + 1:
        return [(f"{rate:.2f}", counts[rate]) for rate in sorted(counts)]
    bins = Counter(min(BINS - 1, int(rate * BINS)) for rate in counts.elements())
    return [(f"{at / BINS:.1f}–{(at + 1) / BINS:.1f}", bins[at]) for at in range(BINS)]
