"""Which held-out questions a page shows with both answers, and how."""

from __future__ import annotations

from typing import Any

from recipes.reporting.run_data import Answer, RunData
from recipes.reporting.text import NAMES

EXAMPLES = 3
STATUS = {
    "correct": "right",
    "wrong": "wrong answer",
    "bad_format": "wrong form",
    "no_box": "no answer in a box",
    "truncated": "cut off without an answer",
    "timeout": "ran into the judging deadline",
    "bad_gold": "not judged: unusable ground truth",
    "error": "not judged: grader error",
}
# Turned right first, then still wrong, right twice, turned wrong.
ORDER: list[tuple[float, float]] = [(0, 1), (0, 0), (1, 1), (1, 0)]


def examples(data: RunData) -> list[dict[str, Any]]:
    """The questions to show, as the page's template takes them."""
    return [_example(data.before_answers[ident], data.after_answers[ident]) for ident in pick_examples(data)]


def pick_examples(data: RunData, count: int = EXAMPLES) -> list[str]:
    """Prompt ids of the questions to show: in the order of `ORDER`, with kinds, domains and sources mixed."""
    pairs = {ident: pair for ident, pair in data.rewards().items() if pair in ORDER}
    left = list(pairs)
    chosen: list[str] = []
    while left and len(chosen) < count:
        taken = [data.after_answers[ident] for ident in chosen]

        def merit(place: int, taken: list[Answer] = taken) -> tuple[int, bool, bool, bool, int]:
            answer = data.after_answers[left[place]]
            return (
                ORDER.index(pairs[left[place]]),
                answer.kind in {other.kind for other in taken},
                answer.domain in {other.domain for other in taken},
                answer.source in {other.source for other in taken},
                place,
            )

        chosen.append(left.pop(min(range(len(left)), key=merit)))
    return chosen


def _example(before: Answer, after: Answer) -> dict[str, Any]:
    return {
        "source": after.source,
        "kind": NAMES.get(after.kind, after.kind),
        "question": after.question,
        "options": after.options,
        "ground_truth": after.ground_truth,
        "sides": [
            {
                "title": title,
                "response": answer.response,
                "tokens": answer.tokens,
                "right": answer.reward == 1,
                "verdict": STATUS.get(answer.status, answer.status),
                "reward": answer.reward,
            }
            for title, answer in (("Before training", before), ("After training", after))
        ],
    }
