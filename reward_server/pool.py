"""A pool of worker processes with a CPU-time deadline per question (docs/rewards.md, Statuses).

A worker is given a few questions at a time. Two lanes keep cheap questions from waiting behind dear ones: a worker
whose question has taken long steps aside, at lower priority, and a fresh one takes its place and its other questions.
What was answered is remembered, since the samples of a group often give one answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from functools import partial
from typing import Any

from reward_server.process import Displaced, Late, Nursery, Stuck, WorkerFailed, WorkerProcess
from reward_server.scoring.judge import Reply
from reward_server.verdicts import ERROR, TIMEOUT

log = logging.getLogger(__name__)

REMEMBERED = 512
"""Questions whose answer is remembered."""
CRASHES = 5
"""Attempts at a question whose workers die. It may not be the question's fault: workers are killed from outside too."""
HANGS = 2
"""Attempts at a question that meets the wall-clock guard."""
DEPTH = 4
"""Questions that a worker is given at a time, so that it need not wait for this process between two."""
SLOW_NICE = 5
"""Added to the niceness of a worker that stepped aside."""


class WorkerPool:
    """`async with WorkerPool(n, deadline_s) as pool`: answers questions in `n` processes at a time.

    Up to `n` more finish dear questions aside. A late worker is killed and replaced; others are not disturbed. No
    worker outlives the block, or this process.

    Args:
        workers: number of processes.
        deadline_s: CPU seconds of a worker that one question may use.
        memory_mb: MiB that one question may take; a worker that keeps half of it is replaced.
        warm_up: build the parser's tables before the first question (two seconds), instead of at each new shape.

    Attributes:
        restarts: workers replaced so far, by reason: "late", "stuck", "died", "memory", "aside", "abandoned".
        hits: questions that were answered from memory.
        wall_s: wall seconds after which a worker is taken for stuck; None: the default for the deadline.
    """

    def __init__(self, workers: int, deadline_s: float, memory_mb: int = 1024, warm_up: bool = True):
        self.workers = workers
        self.deadline_s = deadline_s
        self.memory_mb = memory_mb
        self.wall_s: float | None = None
        self.restarts: Counter[str] = Counter()
        self.hits = 0
        self._nursery = Nursery(memory_mb, warm_up)
        self._all: set[WorkerProcess] = set()
        self._places: list[_Place] = []
        self._aside: set[_Place] = set()
        self._waiting: deque[asyncio.Future[_Place]] = deque()
        self._asked: dict[Hashable, _Asked] = {}
        self._known: OrderedDict[Hashable, Reply] = OrderedDict()

    async def __aenter__(self) -> WorkerPool:
        try:
            self._places += [_Place(await self._start()) for _ in range(self.workers)]
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [worker.pid for worker in self._all]

    @property
    def waiting(self) -> int:
        """Questions that wait for a worker."""
        return len(self._waiting)

    async def gold_is_good(self, gold: str) -> Reply:
        """Whether a ground truth parses. One that uses up the deadline does not."""
        reply = await self._remembered(("gold", gold), {"op": "gold", "gold": gold})
        return Reply(False, None, reply.elapsed_ms) if reply.failure == TIMEOUT else reply

    async def any_equal(self, golds: tuple[str, ...], answer: str) -> Reply:
        """Whether the answer equals one of the ground truths; one deadline for all of them."""
        return await self._remembered((golds, answer), {"op": "compare", "golds": golds, "answer": answer})

    async def _remembered(self, key: Hashable, question: dict[str, Any]) -> Reply:
        known = self._known.get(key)
        if known is not None:
            self.hits += 1
            self._known.move_to_end(key)
            return known
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = _Asked(asyncio.ensure_future(self._ask(question)))
        else:
            self.hits += 1
        asked.waiters += 1
        try:
            reply = await asyncio.shield(asked.task)
        finally:
            asked.waiters -= 1
            if not asked.waiters and self._asked.get(key) is asked:
                del self._asked[key]
                asked.task.cancel()  # where it is not done, nobody waits for it any more
        if reply.failure != ERROR:  # a crash says nothing about the question
            self._known[key] = reply
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return reply

    async def _ask(self, question: dict[str, Any]) -> Reply:
        crashes = hangs = 0
        displaced = False
        while crashes < CRASHES and hangs < HANGS:
            place = await self._take(displaced)
            worker, displaced = None, False
            try:
                worker = await self._at(place)
                reply = await worker.ask(question, self.deadline_s, self.wall_s, partial(self._is_dear, place))
            except Displaced:
                displaced = True
            except Late:
                self._kill(place, worker, "late")
                return Reply(False, TIMEOUT, self.deadline_s * 1e3)
            except Stuck as failure:
                hangs += 1
                self._kill(place, worker, "stuck")
                log.warning("math worker failed (%d of %d): %s", hangs, HANGS, failure)
            except WorkerFailed as failure:
                crashes += 1
                self._kill(place, worker, "died")
                log.warning("math worker failed (%d of %d): %s", crashes, CRASHES, failure)
            except BaseException:  # cancelled: the worker is still busy with a question nobody waits for
                self._kill(place, worker, "abandoned")
                raise
            else:
                if "exhausted" in reply or reply["grown_mb"] > self.memory_mb / 2:
                    self._kill(place, worker, "memory")
                elif place.dear:  # others were sent away from it, and its priority cannot be raised again
                    self._kill(place, worker, "aside")
                if "exhausted" in reply:
                    if worker.asked == 1:
                        return Reply(False, TIMEOUT, reply["ms"])
                    continue  # what the worker kept of earlier questions must not decide this one
                if "error" in reply:
                    log.error("math worker could not judge: %s", reply["error"])
                    return Reply(False, ERROR, reply["ms"])
                return Reply(reply["value"], None, reply["ms"])
            finally:
                place.load -= 1
                self._call_next()
        return Reply(False, ERROR)

    async def _at(self, place: _Place) -> WorkerProcess:
        """The worker of a place, started where there is none."""
        async with place.starting:
            if place.worker is None:
                place.worker = await self._start()
                self._call_next()
        return place.worker

    async def _take(self, displaced: bool) -> _Place:
        """A place in the fast lane, in the order asked; those who were sent away from one come first."""
        if not self._waiting and (place := self._free()) is not None:
            place.load += 1
            return place
        turn: asyncio.Future[_Place] = asyncio.get_running_loop().create_future()
        self._waiting.insert(0 if displaced else len(self._waiting), turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                turn.result().load -= 1
                self._call_next()
            raise

    def _free(self) -> _Place | None:
        """The place with the fewest questions, None where all are full."""
        place = min(self._places, key=lambda one: one.load / one.room, default=None)
        return place if place is not None and place.load < place.room else None

    def _call_next(self) -> None:
        while self._waiting and (place := self._free()) is not None:
            turn = self._waiting.popleft()
            if not turn.done():
                place.load += 1
                turn.set_result(place)

    def _is_dear(self, place: _Place) -> None:
        """Send those away who wait behind a dear question, and give its place to others if there is room aside."""
        if place.worker is None or place in self._aside:
            return
        place.dear = True
        place.worker.displace()
        if len(self._aside) >= self.workers:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, place.worker.pid, SLOW_NICE)
        self._aside.add(place)
        self._places[self._places.index(place)] = _Place()
        self._call_next()

    async def _start(self) -> WorkerProcess:
        worker = await self._nursery.fork()
        self._all.add(worker)
        return worker

    def _kill(self, place: _Place, worker: WorkerProcess | None, reason: str) -> None:
        """End a place's worker, unless another question has ended it already; who comes next starts another one."""
        if worker is None or place.worker is not worker:
            return
        place.worker, place.dear = None, False
        self._aside.discard(place)
        self._all.discard(worker)
        worker.kill()
        self.restarts[reason] += 1

    async def _close(self) -> None:
        tasks = [asked.task for asked in self._asked.values()]
        self._asked.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        workers = list(self._all)
        self._all.clear()
        await asyncio.gather(*(worker.end() for worker in workers))
        await self._nursery.close()


class _Asked:
    """A question under way, and how many wait for it."""

    def __init__(self, task: asyncio.Task[Reply]):
        self.task, self.waiters = task, 0


class _Place:
    """A worker's place in a lane.

    Attributes:
        worker: who has it; None: nobody yet, one is started when needed.
        starting: held while one is started.
        load: questions given to it.
        dear: its present question has taken long.
    """

    def __init__(self, worker: WorkerProcess | None = None):
        self.worker, self.load, self.dear = worker, 0, False
        self.starting = asyncio.Lock()

    @property
    def room(self) -> int:
        """Questions that may be given to it at a time."""
        return DEPTH if self.worker is not None and not self.dear else 1
