"""Many items at once, in order: what the HTTP server and offline scoring share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from reward_server.scoring.judge import SlowMath, error_verdict, judge
from reward_server.verdicts import Item, Verdict

log = logging.getLogger(__name__)

CHUNK = 32
"""Items judged between two looks at other requests."""


async def judge_batch(items: Sequence[Item], match: str, slow: SlowMath) -> list[Verdict]:
    """Verdicts in the order of the items, one each. Items that need no worker are judged while others wait for one."""
    tasks: list[asyncio.Task[Verdict]] = []
    try:
        for start in range(0, len(items), CHUNK):
            tasks += [asyncio.create_task(_judge(item, match, slow)) for item in items[start : start + CHUNK]]
            await asyncio.sleep(0)
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _judge(item: Item, match: str, slow: SlowMath) -> Verdict:
    try:
        return await judge(item, match, slow)
    except Exception:
        # The service boundary: one item that trips the grader must not fail its batch, and must not count as zero.
        log.exception("could not judge item %r", item.id[:80])
        return error_verdict(item)
