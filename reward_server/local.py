"""The judge without a server: the same rules and the same killable workers, for any Python program."""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from conf.reward import ServeRewardConfig, ShapingConfig
from reward_server.explain import explain_for
from reward_server.service import Service
from reward_server.verdicts import Item, Verdict

T = TypeVar("T")


class LocalJudge:
    """Judges items in this process and its workers. May be called from any thread, and from inside an event loop.

    The workers start with the first call and end with `close`, or with this process however it ends. A fork of the
    process gets workers of its own.

    Args:
        match: "equivalent" or "exact".
        shaping: what is added to the reward; default: nothing.
        workers: processes for mathematics.
        deadline_s: CPU seconds that one answer may use up.
    """

    def __init__(
        self,
        match: str = ServeRewardConfig.match,
        shaping: ShapingConfig | None = None,
        workers: int = ServeRewardConfig.workers,
        deadline_s: float = ServeRewardConfig.deadline_s,
    ):
        self._config = ServeRewardConfig(
            match=match,
            shaping=shaping or ShapingConfig(),
            workers=workers,
            deadline_s=deadline_s,
            max_items=sys.maxsize,  # nothing comes over a wire here
        )
        self._lock = threading.Lock()
        self._running: _Running | None = None
        _JUDGES.add(self)

    def __enter__(self) -> LocalJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, items: Sequence[Item]) -> list[Verdict]:
        """Verdicts in the order of the items, one each.

        Raises:
            Refused: an item that the server would refuse, too.
        """
        return self._run(lambda service: service.score(items, "local"))

    def explain(self, item: Item) -> dict[str, Any]:
        """The verdict of one item and the steps to it, as `reward_server.explain.explain` gives them.

        Raises:
            Refused: an item that the server would refuse, too.
        """
        return self._run(lambda service: explain_for(service, item))

    def close(self) -> None:
        """End the workers. The next call starts new ones."""
        with self._lock:
            running, self._running = self._running, None
            if running is not None:
                running.close()

    def _run(self, ask: Callable[[Service], Coroutine[Any, Any, T]]) -> T:
        with self._lock:
            if self._running is None:
                self._running = _Running(self._config)
            running = self._running
        return running.result(ask)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread that does not exist here may have held the old one
        if self._running is not None:
            self._running.abandon()
            self._running = None


class _Running:
    """A service and the thread that moves bytes between its pipes; grading happens in the worker processes."""

    def __init__(self, config: ServeRewardConfig):
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward-judge", daemon=True)
        self._thread.start()
        self._service = Service(config)
        try:
            self.result(lambda service: service.__aenter__())
        except BaseException:
            self._stop()
            raise

    def result(self, ask: Callable[[Service], Coroutine[Any, Any, T]]) -> T:
        """What `ask` gives, awaited on the thread's loop."""
        return asyncio.run_coroutine_threadsafe(ask(self._service), self._loop).result()

    def close(self) -> None:
        """End the workers and the thread."""
        self.result(lambda service: service.__aexit__(None, None, None))
        self._stop()

    def abandon(self) -> None:
        """Let go of it in a fork, which shares the parent's epoll set: clearing up here would deafen the parent."""
        _PARENTS.append(self)
        self._selector.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


_JUDGES: weakref.WeakSet[LocalJudge] = weakref.WeakSet()
_PARENTS: list[_Running] = []
"""What this process has from its parents, kept so that no finalizer touches it."""


def _after_fork() -> None:
    for judge in list(_JUDGES):
        judge._after_fork()


os.register_at_fork(after_in_child=_after_fork)
