"""Requests that may be repeated: who lost a reply asks again under the same id, and nothing is judged twice."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from reward_server.verdicts import Item, Verdict

KEPT_ITEMS = 32_768
"""Verdicts of finished requests that are kept for a repetition."""


class RepeatedWithOtherItems(Exception):
    """A request id was used again, for other items."""


class Replies:
    """Remembers requests by id, under way or finished, the newest `KEPT_ITEMS` verdicts of them."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Request] = OrderedDict()
        self._kept = 0

    async def once(
        self, request_id: str, items: Sequence[Item], judge: Callable[[], Awaitable[list[Verdict]]]
    ) -> list[Verdict]:
        """What `judge` gives: of this call, or of an earlier one with this id. A failed call is not remembered.

        Raises:
            RepeatedWithOtherItems: the id stands for other items.
        """
        digest = hash(tuple(items))
        request = self._known.get(request_id)
        if request is None:
            request = self._known[request_id] = _Request(digest, len(items), asyncio.ensure_future(judge()))
            self._kept += len(items)
            self._forget_old()
        elif request.digest != digest:
            raise RepeatedWithOtherItems(request_id)
        request.waiters += 1
        try:
            return await asyncio.shield(request.task)
        except BaseException:  # also a client that leaves; re-raised
            task = request.task
            if not task.done() and request.waiters == 1:
                task.cancel()  # nobody waits for it any more
                self._forget(request_id, request)
            elif task.done() and (task.cancelled() or task.exception() is not None):
                self._forget(request_id, request)  # a finished one is kept: its client may yet ask again
            raise
        finally:
            request.waiters -= 1

    def _forget(self, request_id: str, request: _Request) -> None:
        if self._known.get(request_id) is request:
            del self._known[request_id]
            self._kept -= request.items

    def _forget_old(self) -> None:
        for request_id, request in list(self._known.items()):
            if self._kept <= KEPT_ITEMS:
                return
            if request.task.done():
                self._forget(request_id, request)


class _Request:
    def __init__(self, digest: int, items: int, task: asyncio.Future[list[Verdict]]):
        self.digest, self.items, self.task, self.waiters = digest, items, task, 0
