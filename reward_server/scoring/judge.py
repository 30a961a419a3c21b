"""From an item to its verdict (docs/rewards.md)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from reward_server.scoring import math, mcq, text
from reward_server.scoring.bounds import refusal
from reward_server.scoring.extract import check_format, extract_answer, is_cut_off
from reward_server.verdicts import (
    BAD_FORMAT,
    BAD_GOLD,
    CORRECT,
    ERROR,
    INVALID,
    NO_BOX,
    TIMEOUT,
    TRUNCATED,
    WRONG,
    Item,
    Verdict,
)

MAX_CHARS_HERE = 300
"""Longer mathematical answers are taken apart in a worker, under its deadline: nothing here may take long."""


@dataclass(frozen=True, slots=True)
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


async def judge(item: Item, match: str, slow: SlowMath) -> Verdict:
    """Judge one item.

    The ground truth is judged first and without looking at the response, so that a bad one is bad for every response.

    Args:
        match: "equivalent" (the full rules) or "exact" (character for character, for all three kinds).
        slow: asked only for mathematics that is neither a plain number nor plain text; a cheap item never waits.
    """
    found = settle(item, match)
    return found if isinstance(found, Verdict) else await found.ask(slow)


def settle(item: Item, match: str) -> Verdict | Unsettled:
    """The verdict of an item that needs no worker; else what a worker must be asked."""
    started = time.perf_counter()
    format_bit = check_format(item.response, item.think_prefilled)
    extracted = extract_answer(item.response)
    unsettled = Unsettled(item, format_bit, extracted)
    good = check_ground_truth(item.kind, item.ground_truth, item.options, match)
    if good is None:
        unsettled.golds = tuple(gold for gold in item.ground_truth if math.check_gold(gold) is None)
    right: bool | None = False
    if good is not False and extracted is not None:
        right, unsettled.rivals = _compare(item, match, extracted)
    unsettled.elapsed_ms = (time.perf_counter() - started) * 1e3
    if good is False or (good and right is not None):
        return unsettled.verdict(Reply(bool(good)), Reply(bool(right)))
    unsettled.right = right
    return unsettled


@dataclass
class Unsettled:
    """An item of which a worker must look at the ground truth, at the answer, or at both.

    Attributes:
        golds: ground truths that a worker must parse.
        rivals: ground truths that the answer must be compared with by a worker.
        right: what is known of the answer already; None: ask.
    """

    item: Item
    format: int
    extracted: str | None
    golds: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    right: bool | None = None
    elapsed_ms: float = 0.0

    async def ask(self, slow: SlowMath) -> Verdict:
        """The verdict, once the workers have answered."""
        for gold in self.golds:
            reply = await slow.gold_is_good(gold)
            self.elapsed_ms += reply.elapsed_ms
            if not reply.value:
                return self.verdict(reply, Reply())
        answer = Reply(bool(self.right))
        if self.right is None:
            assert self.extracted is not None
            answer = await slow.any_equal(self.rivals, self.extracted)
            self.elapsed_ms += answer.elapsed_ms
        return self.verdict(Reply(True), answer)

    def verdict(self, gold: Reply, answer: Reply) -> Verdict:
        """The first status that applies (docs/rewards.md). The paper's R_acc is `accuracy`, its R_format `format`."""
        status = self._status(gold, answer)
        return Verdict(
            id=self.item.id,
            reward=None if status in INVALID else float(status == CORRECT),
            accuracy=None if status in INVALID else int(answer.value),
            format=self.format,
            extracted=self.extracted,
            status=status,
            elapsed_ms=round(self.elapsed_ms, 3),
        )

    def _status(self, gold: Reply, answer: Reply) -> str:
        if ERROR in (gold.failure, answer.failure):
            return ERROR
        if not gold.value:
            return BAD_GOLD
        if answer.failure == TIMEOUT:
            return TIMEOUT
        if is_cut_off(self.item.response, self.item.finish_reason):
            return TRUNCATED
        if self.extracted is None:
            return NO_BOX
        if not self.format:
            return BAD_FORMAT
        return CORRECT if answer.value else WRONG


def error_verdict(item: Item) -> Verdict:
    """The verdict of an item at which the grader itself failed: invalid, never zero."""
    return Verdict(item.id, None, None, 0, None, ERROR, 0.0)


def check_ground_truth(kind: str, golds: Sequence[str], options: mcq.Options | None, match: str) -> bool | None:
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


def _compare(item: Item, match: str, answer: str) -> tuple[bool | None, tuple[str, ...]]:
    """(is the answer right, ground truths to ask a worker about): None where a worker must say."""
    if match == "exact":
        return any(answer == gold.strip() for gold in item.ground_truth), ()
    if item.kind == "mcq":
        return any(mcq.is_right(answer, gold, item.options) for gold in item.ground_truth), ()
    if item.kind == "open":
        return any(text.same(answer, gold) for gold in item.ground_truth), ()
    if len(answer) > MAX_CHARS_HERE and not refusal(answer):
        return None, item.ground_truth
    results = {gold: math.compare(gold, answer) for gold in item.ground_truth}
    unsettled = tuple(gold for gold, result in results.items() if result is None)
    if True in results.values() or not unsettled:
        return True in results.values(), ()
    return None, unsettled
