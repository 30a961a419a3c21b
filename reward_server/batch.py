"""Many items at once, in order: what the HTTP server and offline scoring share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from reward_server.scoring.judge import SlowMath, Unsettled, error_verdict, settle
from reward_server.turns import Turn, Turns
from reward_server.verdicts import Item, Verdict

log = logging.getLogger(__name__)


async def judge_batch(items: Sequence[Item], match: str, slow: SlowMath, turn: Turn | None = None) -> list[Verdict]:
    """Verdicts in the order of the items, one each. Items that need no worker are judged while others wait for one.

    Args:
        turn: in which it computes, and which it ends. None: no other request is beside it.
    """
    turn = turn or Turns().request(len(items))
    found: list[Verdict | asyncio.Task[Verdict]] = []
    try:
        async with turn:
            for item in items:
                first = _settle(item, match)
                found.append(asyncio.create_task(_ask(first, slow)) if isinstance(first, Unsettled) else first)
                if turn.over:
                    await turn.rest()
        return [one if isinstance(one, Verdict) else await one for one in found]
    finally:
        for one in found:
            if isinstance(one, asyncio.Task):
                one.cancel()


def _settle(item: Item, match: str) -> Verdict | Unsettled:
    try:
        return settle(item, match)
    except Exception:
        return _failed(item)


async def _ask(unsettled: Unsettled, slow: SlowMath) -> Verdict:
    try:
        return await unsettled.ask(slow)
    except Exception:
        return _failed(unsettled.item)


def _failed(item: Item) -> Verdict:
    # The service boundary: one item that trips the grader must not fail its batch, and must not count as zero.
    log.exception("could not judge item %r", item.id[:80])
    return error_verdict(item)
