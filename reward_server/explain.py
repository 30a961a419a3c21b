"""Why an item got its verdict: every step of the rules that made it (docs/rewards.md).

The verdict comes from the judge itself, and so does what each step says: the rules' own functions are asked for their
reasons. There is no second copy of a rule here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from conf.reward import ShapingConfig
from reward_server import shaping as shapes
from reward_server.batch import judge_batch
from reward_server.explaining import answers, mathematics, response
from reward_server.explaining.steps import BAD, DIFFERENT, EQUAL, GOOD, NOTE, Step, counted, quoted, visible
from reward_server.scoring.judge import Reply, SlowMath, check_ground_truth
from reward_server.service import Service, check_item
from reward_server.verdicts import (
    BAD_FORMAT,
    BAD_GOLD,
    CORRECT,
    ERROR,
    NO_BOX,
    TIMEOUT,
    TRUNCATED,
    WRONG,
    Item,
    Verdict,
    rules_hash,
)

log = logging.getLogger(__name__)

SHOWN_GOLDS = 8
"""Ground truths of one item that are explained."""

MEANINGS = {
    ERROR: "The grader failed, which says nothing about the answer: the item is invalid",
    BAD_GOLD: "A ground truth cannot be judged, so the item is invalid whatever the response",
    TIMEOUT: "The answer used up the worker's CPU time",
    TRUNCATED: "The response was cut off before a box was complete",
    NO_BOX: "The response has no answer in a box",
    BAD_FORMAT: "There is an answer, but the format is broken",
    WRONG: "The format is kept, but the answer is not right",
    CORRECT: "The format is kept and the answer is right",
}
"""What each status says."""


async def explain(item: Item, match: str, slow: SlowMath, shaping: ShapingConfig) -> dict[str, Any]:
    """The verdict of an item, and the steps to it. Works on any text.

    Args:
        item: what to judge. It has the fields that the shaping needs (`shaping.missing`).
        match: "equivalent" or "exact".
        slow: asked what the judge asks, and once more for each of several ground truths.
        shaping: what is added to the reward.

    Returns:
        {"verdict": as in a `/v1/score` reply, "rules_hash", "match", "steps": [{"step", "part", "result", "why",
        "rule", "source"}]}. The stages of the steps, in order: finish, format, box, gold, answer, shaping, reward; the
        last one's result is the status. Texts in `why` are printable, and shortened in the middle where long.
    """
    asked = _Recorder(slow)
    (plain,) = await judge_batch([item], match, asked)
    verdict = shapes.shape(plain, item, shaping)
    steps = [
        *await _section("finish", lambda: _now([response.finish(item)])),
        *await _section("format", lambda: _now(response.format_steps(item))),
        *await _section("box", lambda: _now(response.box_steps(item))),
        *await _section("gold", lambda: _golds(item, match, asked)),
        *await _section("answer", lambda: _answers(item, match, plain, asked)),
        *await _section("shaping", lambda: _now(_shaping(item, plain, shaping))),
        _reward(verdict),
    ]
    return {
        "verdict": verdict.to_json(),
        "rules_hash": rules_hash(match, shaping),
        "match": match,
        "steps": [step.to_json() for step in steps],
    }


async def explain_for(service: Service, item: Item) -> dict[str, Any]:
    """`explain` under a server's rules and with its workers. Nothing is counted.

    Raises:
        Refused: as `check_item`.
    """
    check_item(item, service.config)
    return await explain(item, service.config.match, service.pool, service.config.shaping)


class _Recorder:
    """Slow math that remembers what it was asked and what it said."""

    def __init__(self, slow: SlowMath):
        self._slow = slow
        self.golds: dict[str, Reply] = {}
        self.pairs: dict[tuple[tuple[str, ...], str], Reply] = {}

    async def gold_is_good(self, gold: str) -> Reply:
        if gold not in self.golds:
            self.golds[gold] = await self._slow.gold_is_good(gold)
        return self.golds[gold]

    async def any_equal(self, golds: tuple[str, ...], answer: str) -> Reply:
        if (golds, answer) not in self.pairs:
            self.pairs[golds, answer] = await self._slow.any_equal(golds, answer)
        return self.pairs[golds, answer]


async def _section(stage: str, make: Callable[[], Awaitable[Sequence[Step]]]) -> Sequence[Step]:
    try:
        return await make()
    except Exception as error:
        # A rule that fails on an item makes its verdict `error`; the explanation must still say so.
        log.exception("could not explain the stage %s", stage)
        return [Step(stage, "", ERROR, f"This stage failed: {visible(f'{type(error).__name__}: {error}')}")]


async def _now(steps: Sequence[Step]) -> Sequence[Step]:
    return steps


async def _golds(item: Item, match: str, asked: _Recorder) -> list[Step]:
    if not item.ground_truth:
        return [Step("gold", "ground truth", BAD, "There is none.")]
    steps = []
    for index, gold in enumerate(item.ground_truth[:SHOWN_GOLDS]):
        good = check_ground_truth(item.kind, (gold,), item.options, match)
        worker = await asked.gold_is_good(gold) if good is None else None
        result = (GOOD if good else BAD) if worker is None else worker.failure or (GOOD if worker.value else BAD)
        if item.kind == "math" and match == "equivalent":
            why = mathematics.gold_why(gold, worker)
        else:
            why = answers.gold_why(item, gold, match)
        steps.append(Step("gold", _named("ground truth", index, item), result, why))
    return steps + _not_shown("gold", item)


async def _answers(item: Item, match: str, verdict: Verdict, asked: _Recorder) -> list[Step]:
    answer, rule = verdict.extracted, "exact" if match == "exact" else item.kind
    if answer is None:
        return [Step("answer", "answer", NOTE, "There is no answer to compare.", rule)]
    if verdict.status == BAD_GOLD:
        return [Step("answer", "answer", NOTE, "Not compared: the item is invalid.", rule)]
    steps: list[Step] = []
    for index, gold in enumerate(item.ground_truth[:SHOWN_GOLDS]):
        one = verdict
        if len(item.ground_truth) > 1:
            (one,) = await judge_batch([replace(item, ground_truth=(gold,))], match, asked)
        result = one.status if one.status in (ERROR, TIMEOUT, BAD_GOLD) else EQUAL if one.accuracy else DIFFERENT
        part = _named("answer", index, item)
        if rule == "math":
            worker = asked.pairs.get(((gold,), answer))
            found = mathematics.answer_steps(gold, answer, worker, result, part)
            steps += [step for step in found if step.part != "cleaned" or step not in steps]
            if worker is not None and worker.failure is None and not worker.value:
                steps[-1:-1] = await mathematics.asked_again(gold, answer, asked)
        elif rule == "open":
            steps += answers.open_steps(gold, answer, result, part)
        else:
            make = answers.mcq_step if rule == "mcq" else answers.exact_step
            steps.append(make(item, gold, answer, result, part))
    return steps + _not_shown("answer", item, rule)


def _shaping(item: Item, plain: Verdict, shaping: ShapingConfig) -> list[Step]:
    """Each term, taken from the shaping itself: what it makes of the reward with this term alone."""
    if shaping == ShapingConfig():
        return [Step("shaping", "terms", NOTE, "None: the reward is R_acc ∧ R_format.")]
    if plain.reward is None:
        return [Step("shaping", "terms", NOTE, "An invalid item has no reward to shape.")]
    steps = []
    if shaping.format_credit:
        more = _reward_of(plain, item, ShapingConfig(format_credit=shaping.format_credit)) - plain.reward
        why = (
            f"{more:+g} for a wrong answer in a right format."
            if more
            else "0: only a wrong answer in a right format gets it."
        )
        steps.append(Step("shaping", "format credit", NOTE, why))
    if shaping.length_penalty:
        less = _reward_of(plain, item, replace(shaping, format_credit=0.0, source_weights={})) - plain.reward
        used = counted(item.response_tokens or 0, "token")
        limits = f"nothing up to {shaping.length_free:,}, {shaping.length_penalty:g} from {shaping.length_limit:,} on"
        steps.append(Step("shaping", "length penalty", NOTE, f"{less:+g} for {used} ({limits})."))
    if shaping.source_weights:
        before = _reward_of(plain, item, replace(shaping, source_weights={}))
        after = _reward_of(plain, item, shaping)
        why = f"{before:g} becomes {after:g} for the source {quoted(item.source or '', 80)}."
        steps.append(Step("shaping", "source weight", NOTE, why))
    return steps


def _reward_of(plain: Verdict, item: Item, shaping: ShapingConfig) -> float:
    reward = shapes.shape(plain, item, shaping).reward
    assert reward is not None, "of a valid item"
    return reward


def _reward(verdict: Verdict) -> Step:
    reward = "no reward" if verdict.reward is None else f"reward {verdict.reward:g}"
    return Step("reward", "status", verdict.status, f"{MEANINGS[verdict.status]}: {reward}.")


def _named(what: str, index: int, item: Item) -> str:
    total = len(item.ground_truth)
    return what if total == 1 else f"{what} {index + 1}" if what == "ground truth" else f"{what} to {index + 1}"


def _not_shown(stage: str, item: Item, rule: str = "") -> list[Step]:
    more = len(item.ground_truth) - SHOWN_GOLDS
    return [Step(stage, "more", NOTE, f"{counted(more, 'ground truth')} more, not shown.", rule)] if more > 0 else []
