"""The judge without a server: the same rules and the same killable workers, for any Python program."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from conf.reward import ServeRewardConfig, ShapingConfig
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
        match: str = "equivalent",
        shaping: ShapingConfig | None = None,
        workers: int = 2,
        deadline_s: float = ServeRewardConfig.deadline_s,
    ):
        self._config = ServeRewardConfig(
            match=match, shaping=shaping or ShapingConfig(), workers=workers, deadline_s=deadline_s
        )
        self._lock = threading.Lock()
        self._service: Service | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

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

    def close(self) -> None:
        """End the workers. The next call starts new ones."""
        with self._lock:
            if self._service is not None and self._pid == os.getpid():
                assert self._loop is not None and self._thread is not None
                asyncio.run_coroutine_threadsafe(self._service.__aexit__(None, None, None), self._loop).result()
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
            self._service = None

    def _run(self, ask: Callable[[Service], Awaitable[T]]) -> T:
        service, loop = self._started()
        return asyncio.run_coroutine_threadsafe(ask(service), loop).result()

    def _started(self) -> tuple[Service, asyncio.AbstractEventLoop]:
        with self._lock:
            if self._service is None or self._pid != os.getpid():  # a fork has the object, but not the thread
                self._loop = asyncio.new_event_loop()
                # The thread only moves bytes between pipes; grading happens in the worker processes.
                self._thread = threading.Thread(target=self._loop.run_forever, name="reward-judge", daemon=True)
                self._thread.start()
                service = Service(self._config)
                asyncio.run_coroutine_threadsafe(service.__aenter__(), self._loop).result()
                self._service, self._pid = service, os.getpid()
            assert self._loop is not None
            return self._service, self._loop
