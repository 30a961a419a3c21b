"""Many coroutines at a time, whose results come in the order of what they were made from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

One = TypeVar("One")
Result = TypeVar("Result")

AHEAD = 16
"""How many times as many results as may be under way are kept at most while an earlier one is waited for."""


def in_order(
    loop: asyncio.AbstractEventLoop, items: Iterable[One], work: Callable[[One], Awaitable[Result]], at_once: int
) -> Iterator[tuple[One, Result]]:
    """Each item with what its work comes to; the loop runs while the next result is asked for.

    Args:
        loop: that is not running.
        items: taken one by one, not far ahead of the results.
        work: makes the coroutine.
        at_once: coroutines under way at most.

    Raises:
        Whatever a piece of work raises, as soon as it does; the others are cancelled.
    """
    source = enumerate(iter(items))
    under_way: dict[asyncio.Task[Any], tuple[int, One]] = {}
    finished: dict[int, tuple[One, Result]] = {}
    following, exhausted = 0, False
    try:
        while True:
            while not exhausted and len(under_way) < at_once and len(finished) < AHEAD * at_once:
                taken = next(source, None)
                if taken is None:
                    exhausted = True
                    break
                under_way[loop.create_task(_awaited(work, taken[1]))] = taken
            if not under_way:
                return
            done, _ = loop.run_until_complete(asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED))
            for task in done:
                number, item = under_way.pop(task)
                finished[number] = (item, task.result())
            while following in finished:
                yield finished.pop(following)
                following += 1
    finally:
        loop.run_until_complete(_cancelled(under_way))


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _awaited(work: Callable[[One], Awaitable[Result]], item: One) -> Result:
    return await work(item)
