"""Much work at a time, whose results come in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.synthesis.in_order import AHEAD, in_order

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with closing(asyncio.new_event_loop()) as made:
        yield made


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 8), max_size=40), st.integers(1, 7))
def test_results_come_in_the_order_of_what_they_were_made_from(turns: list[int], at_once: int) -> None:
    now, most = 0, 0

    async def work(number: int) -> int:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        for _ in range(turns[number]):  # so many turns of the loop, so that later ones are finished before earlier ones
            await asyncio.sleep(0)
        now -= 1
        return number * number

    with closing(asyncio.new_event_loop()) as loop:
        found = list(in_order(loop, range(len(turns)), work, at_once))
    assert found == [(number, number * number) for number in range(len(turns))]
    assert now == 0 and most <= at_once
    assert not all(turns) or most == min(at_once, len(turns))


def test_items_are_not_taken_far_ahead_of_the_results(loop: asyncio.AbstractEventLoop) -> None:
    taken, first = [], asyncio.Event()

    def source() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    async def work(number: int) -> int:
        if number == 0:
            await first.wait()
        return number

    async def release() -> None:
        while len(taken) < 2 * AHEAD:
            await asyncio.sleep(0)
        for _ in range(200):  # time enough to take more
            await asyncio.sleep(0)
        assert len(taken) <= (AHEAD + 1) * 2
        first.set()

    task = loop.create_task(release())
    assert [number for number, _ in in_order(loop, source(), work, 2)] == list(range(1000))
    loop.run_until_complete(task)


def test_a_failure_is_raised_at_once_and_the_others_are_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    cancelled = []

    async def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    with pytest.raises(ValueError, match="three"):
        list(in_order(loop, range(10), work, 4))
    assert sorted(cancelled) == [0, 1, 2]


def test_whoever_stops_asking_cancels_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    cancelled = []

    async def work(number: int) -> int:
        try:
            if number:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    found = in_order(loop, range(10), work, 3)
    assert next(found) == (0, 0)
    found.close()
    assert cancelled and not asyncio.all_tasks(loop)


def test_an_item_that_cannot_be_had_ends_it(loop: asyncio.AbstractEventLoop) -> None:
    def source() -> Iterator[int]:
        yield 0
        raise OSError("gone")

    async def work(number: int) -> int:
        await asyncio.Event().wait()
        return number

    with pytest.raises(OSError, match="gone"):
        list(in_order(loop, source(), work, 2))
    assert not asyncio.all_tasks(loop)
