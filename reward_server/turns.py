"""Requests take turns on the event loop: one computes at a time, for a slice, and sockets are served in between."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from types import TracebackType

SLICE_S = 0.001
"""Seconds of one turn. Math workers wait as long for their next question, a batch a dozen times."""
PER_ITEM_S = 0.001
"""Seconds that an item may take: a request is due as much later as it is larger."""


class Turns:
    """Who computes next: the request that is due first. A large one makes a small one wait, but not for all of it.

    Several requests that are judged side by side all end late; in this order most end early. A request is due a time
    after its arrival that grows with its size, so that none starves.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def request(self, items: int) -> Turn:
        """The turn of a request of so many items that arrives now. `async with` it waits for it and gives it up."""
        return Turn(self, time.perf_counter() + items * PER_ITEM_S)

    async def wait(self, due: float) -> None:
        """Return when it is the turn of who is due then."""
        if not self._taken:
            self._taken = True
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due, next(self._numbers), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.pass_on()
            raise

    def anyone_before(self, due: float) -> bool:
        """Whether somebody waits who is due earlier."""
        return bool(self._waiting) and self._waiting[0][0] < due

    def pass_on(self) -> None:
        """End a turn; the next one begins after the loop has served its sockets."""
        while self._waiting:
            place = heapq.heappop(self._waiting)[2]
            if not place.done():
                place.set_result(None)
                return
        self._taken = False


class Turn:
    """What a request holds while it computes. It may give it up and take it again; it stays due when it was.

    One task at a time holds it: work that may outlive the request takes one of its own (`again`).
    """

    def __init__(self, turns: Turns, due: float):
        self._turns, self._due = turns, due
        self._held, self._began = False, 0.0

    async def __aenter__(self) -> Turn:
        await self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def again(self) -> Turn:
        """Another turn that is due at the same time, not held yet."""
        return Turn(self._turns, self._due)

    async def begin(self) -> None:
        """Wait for it, unless it is held already."""
        if not self._held:
            await self._turns.wait(self._due)
            self._held, self._began = True, time.perf_counter()

    def end(self) -> None:
        """Give it up, if it is held."""
        if self._held:
            self._held = False
            self._turns.pass_on()

    @property
    def over(self) -> bool:
        """Whether the slice is used up: call `rest`."""
        return time.perf_counter() - self._began > SLICE_S

    async def rest(self) -> None:
        """Let the loop serve its sockets, and others compute that are due earlier."""
        if self._turns.anyone_before(self._due):
            self.end()
            await self.begin()
        else:
            await asyncio.sleep(0)
            self._began = time.perf_counter()
