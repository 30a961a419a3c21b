"""Could the reward server judge this ground truth? A row that it could not never reaches a pool.

The rule is the server's own (`reward_server.scoring`), and so are the killable worker processes for what may take long.
Most golds are settled by text and exact numbers where the row is prepared; only the rest come here, each once.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable

from crossthink.errors import UserError
from data_prep.rows import Question
from reward_server.pool import WorkerPool
from reward_server.scoring.judge import check_ground_truth
from reward_server.verdicts import ERROR

MATCH = "equivalent"  # what it accepts as a gold, `exact` accepts too
AT_ONCE = 256  # golds asked about together: enough to keep every worker busy


def unsettled(question: Question, golds: list[str]) -> bool | tuple[str, ...]:
    """True or False where the ground truth is good or bad for certain; else the golds that a worker must parse."""
    good = check_ground_truth(question.kind, golds, question.options, MATCH)
    return tuple(golds) if good is None else good


class GoldJudge:
    """Asks the reward server's workers, which start with the first gold and end with the block.

    Args:
        workers: processes.
        deadline_s: CPU seconds for one gold; one that takes longer is bad, as it is for the server.
    """

    def __init__(self, workers: int, deadline_s: float) -> None:
        self._pool = WorkerPool(workers, deadline_s, warm_up=False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._known: dict[str, bool] = {}

    def __enter__(self) -> GoldJudge:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self._pool.__aexit__(None, None, None))
            self._loop.close()

    def bad(self, golds: Iterable[str], progress: Callable[[int], None]) -> set[str]:
        """The ones of `golds` that do not parse. `progress` is told how many more have been judged.

        Raises:
            UserError: the grader itself failed twice on a gold, which says nothing about the gold.
        """
        wanted = dict.fromkeys(golds)
        fresh = [gold for gold in wanted if gold not in self._known]
        if fresh and self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.run_until_complete(self._pool.__aenter__())
        rest = iter(fresh)
        while some := list(itertools.islice(rest, AT_ONCE)):
            assert self._loop is not None
            self._known.update(self._loop.run_until_complete(self._ask(some)))
            progress(len(some))
        return {gold for gold in wanted if not self._known[gold]}

    async def _ask(self, golds: list[str]) -> dict[str, bool]:
        replies = await asyncio.gather(*(self._pool.gold_is_good(gold) for gold in golds))
        for gold, reply in zip(golds, replies, strict=True):
            if reply.failure == ERROR:
                raise UserError(f"The grader failed twice on the ground truth {gold!r}. Please report it.")
        return {gold: reply.value for gold, reply in zip(golds, replies, strict=True)}
