"""From an item to its verdict (docs: the verdict contract)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reward_server.scoring import math, mcq, text
from reward_server.scoring.extract import check_format, extract_answer, has_complete_box
from reward_server.verdicts import (
    BAD_FORMAT,
    BAD_GOLD,
    CORRECT,
    ERROR,
    INVALID,
    NO_BOX,
    STATUSES,
    TIMEOUT,
    TRUNCATED,
    WRONG,
    Item,
    Verdict,
)


@dataclass(frozen=True)
class Reply:
    """What slow math answered: a truth value, or `timeout` or `error` in its place; with the milliseconds it took."""

    value: bool = False
    failure: str | None = None
    elapsed_ms: float = 0.0


class SlowMath(Protocol):
    """Judges what text and exact numbers cannot settle; may take long, and may fail."""

    def gold_is_good(self, gold: str) -> Awaitable[Reply]:
        """Whether a ground truth parses."""
        ...

    def any_equal(self, golds: tuple[str, ...], answer: str) -> Awaitable[Reply]:
        """Whether the answer equals one of these (good) ground truths."""
        ...


class _Stopwatch:
    """Slow math that knows how long its caller waited for a worker to be free."""

    def __init__(self, slow: SlowMath):
        self._slow = slow
        self.waited_ms = 0.0

    async def gold_is_good(self, gold: str) -> Reply:
        return await self._time(self._slow.gold_is_good(gold))

    async def any_equal(self, golds: tuple[str, ...], answer: str) -> Reply:
        return await self._time(self._slow.any_equal(golds, answer))

    async def _time(self, asked: Awaitable[Reply]) -> Reply:
        started = time.perf_counter()
        reply = await asked
        self.waited_ms += (time.perf_counter() - started) * 1e3 - reply.elapsed_ms
        return reply


async def judge(item: Item, match: str, slow: SlowMath) -> Verdict:
    """Judge one item.

    The ground truth is judged first and without looking at the response, so that a bad one is bad for every response.

    Args:
        match: "equivalent" (the full rules) or "exact" (character for character, for all three kinds).
        slow: asked only for mathematics that is neither a plain number nor plain text; a cheap item never waits.
    """
    started = time.perf_counter()
    slow = _Stopwatch(slow)
    format_bit = check_format(item.response, item.think_prefilled)
    extracted = extract_answer(item.response)
    gold = await _judge_gold(item, match, slow)
    answer = Reply()
    if gold.value and extracted is not None:
        answer = await _judge_answer(item, match, extracted, slow)
    applies = {
        ERROR: ERROR in (gold.failure, answer.failure),
        BAD_GOLD: not gold.value,
        TIMEOUT: answer.failure == TIMEOUT,
        TRUNCATED: item.finish_reason == "length" and not has_complete_box(item.response),
        NO_BOX: extracted is None,
        BAD_FORMAT: not format_bit,
        WRONG: not answer.value,
        CORRECT: True,
    }
    status = next(status for status in STATUSES if applies[status])
    return Verdict(
        id=item.id,
        reward=None if status in INVALID else float(status == CORRECT),
        accuracy=None if status in INVALID else int(answer.value),
        format=format_bit,
        extracted=extracted,
        status=status,
        elapsed_ms=round((time.perf_counter() - started) * 1e3 - slow.waited_ms, 3),
    )


def error_verdict(item: Item) -> Verdict:
    """The verdict of an item at which the grader itself failed: invalid, never zero."""
    return Verdict(item.id, None, None, 0, None, ERROR, 0.0)


def check_ground_truth(
    kind: str, golds: Sequence[str], options: Sequence[tuple[str, str]] | None, match: str
) -> bool | None:
    """True where a ground truth can be judged, False where it is `bad_gold`, None where a worker must parse it.

    One bad entry makes it bad: which entry a response would have met is chance.

    Args:
        kind: "mcq", "open" or "math".
        golds: the right answers, any of which is right.
        options: (label, text) pairs of a multiple-choice question, or None.
        match: "equivalent" or "exact".
    """
    if not golds or not all(gold.strip() for gold in golds):
        return False
    if kind == "mcq" and (options or match == "equivalent"):
        return all(mcq.labels(gold, options) is not None for gold in golds)
    if match == "exact":
        return True
    if kind == "open":
        return all(text.normalise(gold) for gold in golds)
    good = [math.check_gold(gold) for gold in golds]
    return False if False in good else None if None in good else True


async def _judge_gold(item: Item, match: str, slow: SlowMath) -> Reply:
    good = check_ground_truth(item.kind, item.ground_truth, item.options, match)
    if good is not None:
        return Reply(good)
    for gold in item.ground_truth:
        if math.check_gold(gold) is None:
            reply = await slow.gold_is_good(gold)
            if not reply.value:
                return reply
    return Reply(True)


async def _judge_answer(item: Item, match: str, answer: str, slow: SlowMath) -> Reply:
    if match == "exact":
        return Reply(any(answer == gold.strip() for gold in item.ground_truth))
    if item.kind == "mcq":
        return Reply(any(mcq.is_right(answer, gold, item.options) for gold in item.ground_truth))
    if item.kind == "open":
        return Reply(any(text.same(answer, gold) for gold in item.ground_truth))
    results = {gold: math.compare(gold, answer) for gold in item.ground_truth}
    unsettled = tuple(gold for gold, result in results.items() if result is None)
    if True in results.values() or not unsettled:
        return Reply(True in results.values())
    return await slow.any_equal(unsettled, answer)
