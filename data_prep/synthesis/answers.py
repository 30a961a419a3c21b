"""The answer in a solution, read as the reward reads it, and the order in which a solution sees its options."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reward_server.scoring import mcq
from reward_server.scoring.extract import answer_start, extract_answer

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Labels of options, in order: those that the reader of Syn-QA knows."""
END_CHARACTERS = 300
"""Where a solution without a box says why."""

# Only where no answer was read: an option may say the same in its own words.
_DECLINES = re.compile(
    r"\bunanswerable\b"
    r"|\bnone of (?:the|these|those)\b"
    r"|\bno (?:correct|right|valid) (?:option|answer|choice)s?\b"
    r"|\b(?:cannot|can not|can't) be (?:determined|answered|solved)\b"
    r"|\b(?:not enough|insufficient) (?:information|data)\b"
)


def boxed_answer(solution: str) -> str | None:
    """The answer in a solution's box; None without one, or where it says that there is no answer."""
    return None if declines(solution) else extract_answer(solution)


def declines(solution: str) -> bool:
    """Whether a solution says that the question has no answer: in its box, or, without a box, at its end."""
    said = extract_answer(solution) or solution[answer_start(solution) :]
    return _DECLINES.search(said[-END_CHARACTERS:].lower()) is not None


@dataclass(frozen=True)
class ShownOptions:
    """The options of a question in the order in which one solution sees them.

    Attributes:
        options: (label, text) pairs as shown.
        labels: for each of them the label under which the question was written.
    """

    options: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]

    def lines(self) -> str:
        """The options as a prompt shows them: a line `A. text` each."""
        return "\n".join(f"{label}. {text}" for label, text in self.options)

    def answer(self, solution: str) -> str | None:
        """The option that a solution's box names, by the label under which the question was written.

        None where there is no box, or where it names no option, several, or a label with another option's text.
        """
        boxed = extract_answer(solution)
        named = mcq.labels(boxed, self.options) if boxed is not None else None
        if named is None or len(named) != 1:
            return None
        return dict(zip((label for label, _ in self.options), self.labels, strict=True))[next(iter(named))]


def shuffled_options(options: Sequence[str], seed: int | str, draw: int) -> ShownOptions:
    """The options in an order of this draw's own, so that a liking for one position decides no vote.

    In as many consecutive draws as there are options, each option stands in each place once: a drawn order is rotated
    by one place a draw, and drawn anew when it has gone round.

    Args:
        options: texts, at most 26.
        seed: the question's own, such as a hash of its text.
        draw: number of the solution, from 0.

    Raises:
        ValueError: there are no options, or more than there are labels.
    """
    count = len(options)
    if not 1 <= count <= len(LABELS):
        raise ValueError(f"{count} options; 1 to {len(LABELS)} can be labelled")
    order = list(range(count))
    round_, turn = divmod(draw, count)
    random.Random(f"{seed}:{round_}").shuffle(order)
    order = order[turn:] + order[:turn]
    return ShownOptions(
        options=tuple((label, options[at]) for label, at in zip(LABELS, order, strict=False)),
        labels=tuple(LABELS[at] for at in order),
    )
