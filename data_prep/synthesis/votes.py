"""Majority vote over several solutions of one question, as in the paper (its sample count and threshold are unknown).

Answers are compared by the reward's own code: what wins a vote is what an answer will later be judged against.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from crossthink.errors import UserError
from data_prep.rows import KINDS
from reward_server.scoring import math, text
from reward_server.scoring.judge import MAX_CHARS_HERE, Reply, SlowMath
from reward_server.verdicts import ERROR

TOO_FEW_VALID = "too_few_valid"
TIE = "tie"
BELOW_THRESHOLD = "below_threshold"

Same = Callable[[str, str], bool]
"""Whether two answers are one."""


@dataclass(frozen=True)
class Vote:
    """What several solutions agree on.

    Attributes:
        asked: solutions that were asked for.
        valid: solutions that gave an answer.
        winner: the answer of the largest group, as most of it wrote it; None where there is none or no single one.
        winning: size of the largest group.
        groups: each group's answer and size, the largest first.
        reason: why nothing is decided: `too_few_valid`, `tie` or `below_threshold`; None where the vote is kept.
    """

    asked: int
    valid: int
    winner: str | None
    winning: int
    groups: tuple[tuple[str, int], ...]
    reason: str | None

    @property
    def share(self) -> float:
        """The largest group's share of the valid answers."""
        return self.winning / self.valid if self.valid else 0.0

    @property
    def kept(self) -> bool:
        """Whether the winner is the answer."""
        return self.reason is None


def vote(answers: Sequence[str | None], kind: str, asked: int, threshold: float, least_valid: int, same: Same) -> Vote:
    """Group equal answers and take the largest group.

    "Equal" need not be transitive in mathematics, so the groups are made in an order of their own: an answer that more
    solutions gave comes before, then the shorter, then by the alphabet; each joins the first group whose first answer
    is the same. The order of `answers` changes nothing.

    Args:
        answers: one entry for each solution that came back; None where no answer could be read. Of kind mcq the labels
            under which the question was written, not those that were shown.
        kind: of KINDS; says which answers are one before `same` is asked (`text_key`).
        asked: solutions that were asked for, at least as many as came back.
        threshold: least share of the valid answers that must agree, above 0 and at most 1.
        least_valid: fewer valid answers decide nothing; at least 1.
        same: `same_option` or what `math_same` gives.

    Raises:
        ValueError: an argument outside these bounds.
    """
    if kind not in KINDS or asked < len(answers) or not 0 < threshold <= 1 or least_valid < 1:
        raise ValueError(f"{kind=} {asked=} {threshold=} {least_valid=} with {len(answers)} answers")
    counts = Counter(answer for answer in answers if answer is not None and text_key(answer, kind))
    groups: list[list[str]] = []
    for form in _forms(counts, kind):
        group = next((group for group in groups if same(group[0], form[0])), None)
        if group is None:
            groups.append(list(form))
        else:
            group.extend(form)
    sizes = sorted(((group[0], sum(counts[one] for one in group)) for group in groups), key=lambda one: -one[1])
    valid, winning = counts.total(), sizes[0][1] if sizes else 0
    tie = len(sizes) > 1 and sizes[1][1] == winning
    reason = None
    if valid < least_valid:
        reason = TOO_FEW_VALID
    elif tie:
        reason = TIE
    elif winning / valid < threshold:
        reason = BELOW_THRESHOLD
    return Vote(asked, valid, sizes[0][0] if sizes and not tie else None, winning, tuple(sizes), reason)


def same_option(one: str, other: str) -> bool:
    """Whether two labels name one option."""
    return one == other


async def math_same(answers: Iterable[str | None], slow: SlowMath) -> Same:
    """A function that says which of these mathematical answers are equal, found out beforehand.

    Two answers are one where the reward accepts each with the other as its ground truth. That may take long, so every
    pair that text and exact numbers do not settle is judged by `slow` (`reward_server.pool.WorkerPool`), all together.
    A pair that uses up the deadline is not equal, as it is not for the reward.

    Raises:
        UserError: the grader itself failed on a pair, which says nothing about the answers.
    """
    forms = sorted({text_key(answer, "math") for answer in answers if answer is not None})
    pairs = list(combinations(forms, 2))
    found = await asyncio.gather(*(_mutual(one, other, slow) for one, other in pairs))
    equal = {frozenset(pair) for pair, result in zip(pairs, found, strict=True) if result}

    def same(one: str, other: str) -> bool:
        one, other = text_key(one, "math"), text_key(other, "math")
        return one == other or frozenset((one, other)) in equal

    return same


def text_key(answer: str, kind: str) -> str:
    """What two answers that are surely one have in common; empty where an answer says nothing."""
    if kind == "open":
        return text.normalise(answer)
    return " ".join(answer.split())


def _forms(counts: Counter[str], kind: str) -> list[list[str]]:
    """The different answers, spellings of one beside each other, in the order in which groups are made."""
    by_key: dict[str, list[str]] = {}
    for answer in sorted(counts, key=lambda one: (-counts[one], len(one), one)):
        by_key.setdefault(text_key(answer, kind), []).append(answer)
    return sorted(by_key.values(), key=lambda form: (-sum(counts[one] for one in form), len(form[0]), form[0]))


async def _mutual(one: str, other: str, slow: SlowMath) -> bool:
    return await _accepts(one, other, slow) and await _accepts(other, one, slow)


async def _accepts(gold: str, answer: str, slow: SlowMath) -> bool:
    """Whether the reward accepts `answer` where `gold` is the ground truth."""
    here = max(len(gold), len(answer)) <= MAX_CHARS_HERE
    result = math.compare(gold, answer) if here else None
    if result is not None:
        return result
    reply: Reply = await slow.any_equal((gold,), answer)
    if reply.failure == ERROR:
        raise UserError(f"The grader failed on the answers {gold!r} and {answer!r}. Please report it.")
    return reply.value
