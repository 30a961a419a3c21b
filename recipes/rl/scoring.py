"""Verdicts asked for while samples are still generated."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Protocol

from recipes.rl.batch import Prompt
from recipes.rollout.interface import Response
from recipes.work import Work
from reward_server.verdicts import Item, Verdict


class Judge(Protocol):
    """What scores responses: the reward server's client."""

    def score(self, items: list[Item]) -> list[Verdict]:
        """Verdicts in the order of the items. See `RewardClient.score`."""


def item(prompt: Prompt, p: int, g: int, response: Response, text: str, think_prefilled: bool) -> Item:
    """What the judge is asked of sample g of a rollout's prompt p."""
    row = prompt.row
    return Item(
        id=f"{p}.{g}",
        kind=row.kind,
        response=text,
        ground_truth=tuple(row.ground_truth),
        options=tuple(row.options.items()) if row.options else None,
        finish_reason=response.finish_reason,
        think_prefilled=think_prefilled,
        source=row.source,
        response_tokens=len(response.token_ids),
    )


class ScoringAhead:
    """Asks the judge in a thread of its own; whatever came while a request was under way makes the next one."""

    def __init__(self, client: Judge) -> None:
        """Begin; `finish` ends it."""
        self.verdicts: dict[str, Verdict] = {}
        self._client = client
        self._waiting: queue.SimpleQueue[Sequence[Item] | None] = queue.SimpleQueue()
        self._work = Work(self._ask, "scoring")

    def add(self, items: Sequence[Item]) -> None:
        """Have these judged."""
        self._waiting.put(items)

    def finish(self) -> dict[str, Verdict]:
        """The verdicts of everything that was added, by the items' ids.

        Raises:
            UserError: the judge could not be asked.
        """
        self.end()
        if self._work.error is not None:
            raise self._work.error
        return self.verdicts

    def end(self) -> None:
        """Take no more, and wait for the request under way. May be called again."""
        self._waiting.put(None)
        self._work.wait()

    def _ask(self) -> None:
        over = False
        while not over:
            waiting = [self._waiting.get()]
            while not self._waiting.empty():
                waiting.append(self._waiting.get())
            over = None in waiting
            items = [one for items in waiting if items is not None for one in items]
            if items:
                self.verdicts.update({verdict.id: verdict for verdict in self._client.score(items)})
