"""The samples of one request: generated at the engine's pace, taken at the client's.

A client that reads slowly, or not at all, so keeps neither the engine nor a refit waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import anyio

from crossthink.errors import UserError
from recipes.rollout.interface import Response

log = logging.getLogger(__name__)

Found = tuple[int, Response]
"""Index of the request, and its response."""


class Aborted(UserError):
    """The samples will not come, because somebody asked for that."""


class Flight:
    """One request's samples under way. Made inside the event loop.

    Args:
        source: of `ServedEngine.generate`.
        samples: responses that will come.
        on_sample: called for each response as it is generated.
        on_end: called once, when nothing more is generated.

    Attributes:
        left: samples that are not generated yet.
    """

    def __init__(
        self,
        source: AsyncGenerator[Found, None],
        samples: int,
        on_sample: Callable[[int, Response], None],
        on_end: Callable[[Flight], None],
    ):
        self.left = samples
        self._source, self._on_sample, self._on_end = source, on_sample, on_end
        self._found: list[Found] = []
        self._failure: UserError | None = None
        self._why: str | None = None  # why it is to end, once it is
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._generate())
        self._task.add_done_callback(self._ended)

    async def take(self, within_s: float | None) -> list[Found]:
        """What was generated since the last call: at least one sample, or none where all have been taken.

        Raises:
            TimeoutError: nothing came within `within_s` seconds; None waits for ever.
            Aborted: somebody ended the generation.
            UserError: the engine did.
        """
        await self.wait(within_s)
        found, self._found = self._found, []
        if self._task.done():
            if not found and self._failure is not None:
                raise self._failure
        else:
            self._news.clear()
        return found

    async def wait(self, within_s: float | None) -> None:
        """Wait until `take` would answer at once. Raises TimeoutError."""
        with anyio.fail_after(within_s):
            await self._news.wait()

    @property
    def failed_at_once(self) -> UserError | None:
        """Why it ended, where it did so without a single sample to take."""
        return None if self._found else self._failure

    def abort(self, why: str) -> None:
        """Generate no more; what was not taken yet still can be."""
        if self._why is None:  # a second cancellation would interrupt the engine's tidying up
            self._why = why
            self._task.cancel()

    async def close(self) -> None:
        """Abort what is left, and wait until the engine knows."""
        self.abort("the request was given up")
        if not self._task.done():
            await asyncio.wait([self._task])

    async def _generate(self) -> None:
        async with aclosing(self._source) as source:
            async for index, response in source:
                self.left -= 1
                self._on_sample(index, response)
                self._found.append((index, response))
                self._news.set()
        if self.left:
            raise UserError(f"The engine ended with {self.left} samples missing.")

    def _ended(self, task: asyncio.Task) -> None:
        error = Aborted(self._why or "the server ends") if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, UserError):
            log.error("engine", exc_info=error)
            error = UserError(f"The engine failed: {type(error).__name__}: {error}")
        self._failure = error
        self._on_end(self)
        self._news.set()
