"""A pool of worker processes with a CPU-time deadline per question (docs/rewards.md, Statuses).

Two lanes keep cheap questions from waiting behind dear ones: a worker whose question has taken long steps aside, at
lower priority, and a fresh one takes its place. What was answered is remembered, since the samples of a group often
give one answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from typing import Any

from reward_server.process import Late, Nursery, Stuck, WorkerFailed, WorkerProcess
from reward_server.scoring.judge import Reply
from reward_server.verdicts import ERROR, TIMEOUT

log = logging.getLogger(__name__)

REMEMBERED = 2_048
"""Questions whose answer is remembered."""
CRASHES = 5
"""Attempts at a question whose workers die. It may not be the question's fault: workers are killed from outside too."""
HANGS = 2
"""Attempts at a question that meets the wall-clock guard."""
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
        self._aside: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess | None] = []  # None: a place without a worker, who is started when needed
        self._waiting: deque[asyncio.Future[WorkerProcess | None]] = deque()
        self._asked: dict[Hashable, _Asked] = {}
        self._known: OrderedDict[Hashable, Reply] = OrderedDict()

    async def __aenter__(self) -> WorkerPool:
        try:
            self._idle += [await self._start() for _ in range(self.workers)]
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
    def nursery_pid(self) -> int | None:
        """Process id of the nursery, None where it is not running."""
        return self._nursery.pid

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
        while crashes < CRASHES and hangs < HANGS:
            worker = await self._take()
            try:
                if worker is None:
                    worker = await self._start()
                fresh = not worker.asked
                reply = await worker.ask(question, self.deadline_s, self.wall_s, self._step_aside)
            except Late:
                worker = self._kill(worker, "late")
                return Reply(False, TIMEOUT, self.deadline_s * 1e3)
            except Stuck as failure:
                hangs += 1
                worker = self._kill(worker, "stuck")
                log.warning("math worker failed (%d of %d): %s", hangs, HANGS, failure)
            except WorkerFailed as failure:
                crashes += 1
                worker = self._kill(worker, "died")
                log.warning("math worker failed (%d of %d): %s", crashes, CRASHES, failure)
            except BaseException:  # cancelled: the worker is still busy with a question nobody waits for
                worker = self._kill(worker, "abandoned")
                raise
            else:
                if "exhausted" in reply or reply["grown_mb"] > self.memory_mb / 2:
                    worker = self._kill(worker, "memory")
                if "exhausted" in reply:
                    if fresh:
                        return Reply(False, TIMEOUT, reply["ms"])
                    continue  # what the worker kept of earlier questions must not decide this one
                if "error" in reply:
                    log.error("math worker could not judge: %s", reply["error"])
                    return Reply(False, ERROR, reply["ms"])
                return Reply(reply["value"], None, reply["ms"])
            finally:
                self._give_back(worker)
        return Reply(False, ERROR)

    async def _take(self) -> WorkerProcess | None:
        """A place in the fast lane, in the order asked."""
        if self._idle and not self._waiting:
            return self._idle.pop()
        turn: asyncio.Future[WorkerProcess | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(turn.result())
            raise

    def _give_back(self, worker: WorkerProcess | None) -> None:
        if worker in self._aside:
            assert worker is not None
            self._kill(worker, "aside")  # its place has long been taken, and its priority cannot be raised again
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(worker)
                return
        self._idle.append(worker)

    def _step_aside(self, worker: WorkerProcess) -> None:
        """Give a dear question's place to the next one, if there is room aside."""
        if worker in self._aside or len(self._aside) >= self.workers:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, worker.pid, SLOW_NICE)
        self._give_back(None)
        self._aside.add(worker)

    async def _start(self) -> WorkerProcess:
        worker = await self._nursery.fork()
        self._all.add(worker)
        return worker

    def _kill(self, worker: WorkerProcess | None, reason: str) -> WorkerProcess | None:
        """End a worker. Returns what takes its place in the fast lane: nothing yet, or the worker where it is aside."""
        if worker is None:
            return None
        if worker in self._all:
            worker.kill()
            self._all.discard(worker)
            self.restarts[reason] += 1
        if reason == "aside":
            self._aside.discard(worker)
        return worker if worker in self._aside else None

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
