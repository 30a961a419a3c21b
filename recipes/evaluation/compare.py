"""Two evaluations on the same questions, question by question: how far they are apart, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossthink.errors import UserError
from recipes.evaluation.folder import EvaluationFolder, read_evaluation
from recipes.evaluation.intervals import Interval, average_interval, bootstrap_interval, mean
from recipes.evaluation.summary import PAPER, Question, Seen, per_question

MUST_BE_EQUAL = {
    "questions": "other questions (SHA-256)",
    "rules_hash": "other reward rules (hash)",
    "protocol": "another protocol",
}


@dataclass(frozen=True)
class Difference:
    """Accuracy of the other less that of the one, over the questions that both have a verdict on."""

    questions: int
    one: float
    other: float
    value: float
    interval: Interval

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Comparison:
    """The other evaluation against the one.

    Attributes:
        one: folder of the one.
        other: folder of the other.
        overall: over all questions alike.
        average: of the plain mean of the paper's benchmarks, or None where none was asked.
        benchmarks: by name, in the order of the evaluation.
        left_out: questions without a valid verdict on either side.
    """

    one: Path
    other: Path
    overall: Difference
    average: Difference | None
    benchmarks: dict[str, Difference]
    left_out: int


@dataclass(frozen=True)
class Judged:
    """What a comparison needs of an evaluation: the accuracy of each question, and what was asked how."""

    path: Path
    identity: Mapping[str, Any]
    accuracy: dict[Question, float]
    questions: int

    @classmethod
    def of(cls, folder: EvaluationFolder) -> Judged:
        """Read the samples of an evaluation."""
        accuracy = per_question((Seen.of(sample) for sample in folder.samples()), "accuracy")
        return cls(folder.path, folder.identity, accuracy, folder.summary["questions"])


def compare(one: Path | str, other: Path | str) -> Comparison:
    """Compare the evaluations in two folders.

    Raises:
        ConfigError: a folder holds none.
        UserError: a file cannot be read, or they cannot be compared: the message says what differs, with both values.
    """
    return compare_judged(Judged.of(read_evaluation(one)), Judged.of(read_evaluation(other)))


def compare_judged(one: Judged, other: Judged) -> Comparison:
    """`compare`, of two evaluations that are read already."""
    if reasons := incomparable(one.identity, other.identity):
        raise UserError(f"{one.path} and {other.path} cannot be compared: {'; '.join(reasons)}.")
    shared = [question for question in one.accuracy if question in other.accuracy]
    if not shared:
        raise UserError(f"{one.path} and {other.path} cannot be compared: no question has a valid verdict in both.")
    pairs: dict[str, list[tuple[float, float]]] = {}
    for question in shared:
        pairs.setdefault(question[0], []).append((one.accuracy[question], other.accuracy[question]))
    return Comparison(
        one=one.path,
        other=other.path,
        overall=_difference([pair for some in pairs.values() for pair in some]),
        average=_average([pairs[name] for name in PAPER if name in pairs]),
        benchmarks={name: _difference(some) for name, some in pairs.items()},
        left_out=one.questions - len(shared),
    )


def incomparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Why two evaluations with these identities cannot be compared, with both values; empty where they can."""
    reasons = []
    for key, what in MUST_BE_EQUAL.items():
        left, right = one.get(key), other.get(key)
        if left == right:
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            parts = sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
            what += f", {', '.join(parts)}"
            left, right = ({name: value.get(name) for name in parts} for value in (left, right))
        reasons.append(f"{what}: {left} and {right}")
    return reasons


def _difference(pairs: Sequence[tuple[float, float]]) -> Difference:
    one, other = mean([pair[0] for pair in pairs]), mean([pair[1] for pair in pairs])
    interval = bootstrap_interval([pair[1] - pair[0] for pair in pairs])
    assert one is not None and other is not None and interval is not None
    return Difference(len(pairs), one, other, other - one, interval)


def _average(groups: Sequence[Sequence[tuple[float, float]]]) -> Difference | None:
    if not groups:
        return None
    each = [_difference(group) for group in groups]
    one, other = mean([d.one for d in each]), mean([d.other for d in each])
    interval = average_interval([[b - a for a, b in group] for group in groups])
    assert one is not None and other is not None and interval is not None
    return Difference(sum(d.questions for d in each), one, other, other - one, interval)
