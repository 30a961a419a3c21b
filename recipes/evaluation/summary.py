"""From the judged answers of an evaluation to its numbers, by the paper's protocol: accuracy of a question is the mean
over its runs, accuracy of a benchmark the mean over its questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from recipes.evaluation.intervals import average_interval, bootstrap_interval, mean

NON_MATH, MATH = ("mmlu_test", "mmlu_pro", "gpqa_diamond", "agieval", "supergpqa"), ("math500", "amc23")
PAPER = (*NON_MATH, *MATH)
"""The paper's seven, in its order: its average is over these, whatever other benchmarks there are."""
NO_BOX = ("no_box", "truncated")  # statuses of an answer in which no box was found
Question = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """What the numbers need of an answer. `accuracy` is None where there is no valid verdict."""

    question: Question
    run: int
    accuracy: float | None
    reward: float | None
    format: float | None
    answer_accuracy: float | None
    status: str
    cut_off: bool
    tokens: int | None
    groups: tuple[tuple[str, str], ...]
    domain: str
    kind: str
    source: str

    @classmethod
    def of(cls, sample: Mapping[str, Any]) -> Seen:
        """A line of samples.jsonl."""
        verdict = sample["verdict"]
        valid = verdict["reward"] is not None
        return cls(
            question=(sample["benchmark"], sample["id"]),
            run=sample["run"],
            accuracy=float(verdict["accuracy"] or 0) if valid else None,
            reward=float(verdict["reward"]) if valid else None,
            format=float(verdict["format"] or 0) if valid else None,
            answer_accuracy=None if sample["answer_accuracy"] is None else float(sample["answer_accuracy"]),
            status=verdict["status"],
            cut_off=sample["finish_reason"] == "length",
            tokens=sample["tokens"],
            groups=tuple(sample["groups"].items()),
            domain=sample["domain"],
            kind=sample["kind"],
            source=sample["source"],
        )


def summarise(samples: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of summary.json.

    Args:
        samples: lines of samples.jsonl; read once, their texts are not kept. Their order decides that of the benchmarks
            and no number.
        facts: what was measured, with what and how; handed on under `facts`.

    Returns:
        A block (see `block`) over everything; `benchmarks` with a block each and, under `groups`, one for every value
        of a named category; `average` over the paper's benchmarks; blocks `by_domain`, `by_kind`, `by_source`.
    """
    seen = [Seen.of(sample) for sample in samples]
    benchmarks = {
        name: {**block(some), "groups": _by_group(some)}
        for name, some in _split(seen, lambda one: one.question[0]).items()
    }
    return {
        **block(seen),
        "benchmarks": benchmarks,
        "average": average(seen),
        "by_domain": _blocks(seen, lambda one: one.domain),
        "by_kind": _blocks(seen, lambda one: one.kind),
        "by_source": _blocks(seen, lambda one: one.source),
        "facts": dict(facts),
    }


def block(seen: Sequence[Seen]) -> dict[str, Any]:
    """Counts, means and intervals over some answers.

    Answers without a valid verdict (`invalid`) are in no mean of right and wrong; a question without any valid one is
    not among the `judged`. `truncated` is a share of all answers, `no_box` of the valid ones. Tokens are counted over
    the answers whose length is known; a right answer is one whose last box is right, whatever the format.
    """
    accuracies = list(per_question(seen, "accuracy").values())
    valid = [one for one in seen if one.accuracy is not None]
    runs = sorted({one.run for one in seen})
    interval = bootstrap_interval(accuracies)
    return {
        "questions": len({one.question for one in seen}),
        "judged": len(accuracies),
        "runs": len(runs),
        "answers": len(seen),
        "invalid": len(seen) - len(valid),
        "accuracy": mean(accuracies),
        "accuracy_interval": interval and list(interval),
        "accuracy_by_run": [
            mean([one.accuracy for one in valid if one.run == run and one.accuracy is not None]) for run in runs
        ],
        "reward": mean(list(per_question(seen, "reward").values())),
        "format": mean(list(per_question(seen, "format").values())),
        "answer_accuracy": mean(list(per_question(seen, "answer_accuracy").values())),
        "truncated": mean([float(one.cut_off) for one in seen]),
        "no_box": mean([float(one.status in NO_BOX) for one in valid]),
        "tokens": {
            **_lengths(seen, counted=False),
            "right": _lengths([one for one in valid if one.accuracy == 1]),
            "wrong": _lengths([one for one in valid if one.accuracy != 1]),
        },
        "bad_gold": sorted({one.question[1] for one in seen if one.status == "bad_gold"}),
    }


def average(seen: Sequence[Seen]) -> dict[str, Any]:
    """The plain mean of the paper's seven benchmarks, as far as they were asked: `of` and `missing` say which.

    Means of the non-math and of the math ones stand beside it, as one number hides what each of the two does;
    `intervals` has those of all three.
    """
    values: dict[str, list[float]] = {}
    for (name, _), value in per_question(seen, "accuracy").items():
        values.setdefault(name, []).append(value)
    present = [name for name in PAPER if name in values]
    sides = {
        "all": present,
        "non_math": [name for name in present if name in NON_MATH],
        "math": [name for name in present if name in MATH],
    }
    intervals = {side: average_interval([values[name] for name in names]) for side, names in sides.items()}
    return {
        **{side: mean([mean(values[name]) or 0.0 for name in names]) for side, names in sides.items()},
        "intervals": {side: interval and list(interval) for side, interval in intervals.items()},
        "of": present,
        "missing": [name for name in PAPER if name not in present],
    }


def per_question(seen: Iterable[Seen], field: str) -> dict[Question, float]:
    """The mean of a measure over the valid runs of each question; questions without a valid run are left out."""
    values: dict[Question, list[float]] = {}
    for one in seen:
        value = getattr(one, field)
        if value is not None:
            values.setdefault(one.question, []).append(value)
    return {question: math.fsum(some) / len(some) for question, some in values.items()}


def _lengths(seen: Sequence[Seen], counted: bool = True) -> dict[str, Any]:
    tokens = [one.tokens for one in seen if one.tokens is not None]
    found = {"mean": mean(tokens), "median": float(median(tokens)) if tokens else None}
    return {"count": len(tokens), **found} if counted else found


def _split(seen: Iterable[Seen], key: Callable[[Seen], str]) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for one in seen:
        found.setdefault(key(one), []).append(one)
    return found


def _blocks(seen: Sequence[Seen], key: Callable[[Seen], str]) -> dict[str, dict[str, Any]]:
    return {name: block(some) for name, some in sorted(_split(seen, key).items())}


def _by_group(seen: Sequence[Seen]) -> dict[str, dict[str, Any]]:
    names = sorted({name for one in seen for name, _ in one.groups})
    return {
        name: _blocks([one for one in seen if name in dict(one.groups)], partial(_value_of, name)) for name in names
    }


def _value_of(name: str, one: Seen) -> str:
    return dict(one.groups)[name]
