"""Requests take turns: the one that is due first computes, and sockets are served in between."""

from __future__ import annotations

import asyncio
import time

from reward_server.turns import SLICE_S, Turns


def run(*requests, cancelled=()):
    """Let requests, given as (name, items, slices), compete in this order; the names in the order of their slices."""
    heard = []

    async def one(turns, name, items, slices):
        async with turns.request(items) as turn:
            for _ in range(slices):
                heard.append(name)
                end = time.perf_counter() + 1.1 * SLICE_S
                while time.perf_counter() < end:
                    pass
                assert turn.over
                await turn.rest()

    async def main():
        turns = Turns()
        tasks = {name: asyncio.create_task(one(turns, name, items, slices)) for name, items, slices in requests}
        await asyncio.sleep(0)
        for name in cancelled:
            tasks[name].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        async with turns.request(1):
            heard.append("end")
        return [task.exception() for name, task in tasks.items() if name not in cancelled]

    assert set(asyncio.run(asyncio.wait_for(main(), 30))) <= {None}
    return "".join(name if name != "end" else "." for name in heard)


def test_those_of_one_size_end_one_after_the_other():
    assert run(("a", 64, 3), ("b", 64, 3), ("c", 64, 3)) == "aaabbbccc."


def test_a_small_one_does_not_wait_for_all_of_a_large_one():
    heard = run(("L", 4096, 20), ("s", 64, 2))
    assert heard.index("ss") <= 2 and heard.endswith("LL.") and len(heard) == 23


def test_a_large_one_is_not_put_off_for_ever():
    # The others come with it and are due 19 ms earlier, more than a stall on the way: they overtake it, and it ends.
    heard = run(("L", 20, 40), *((name, 1, 4) for name in "abcdefghij"))
    assert heard.index("a") < heard.rindex("L") and len(heard) == 81


def test_who_leaves_while_waiting_blocks_nobody():
    assert run(("a", 64, 2), ("b", 64, 2), ("c", 64, 2), cancelled="b") == "aacc."


def test_who_leaves_while_computing_passes_the_turn_on():
    assert run(("a", 64, 2), ("b", 64, 2), cancelled="a") == "abb."


def test_sockets_are_served_between_two_slices():
    served = []

    async def main():
        turns = Turns()

        async def serve():
            while True:
                served.append(1)
                await asyncio.sleep(0)

        serving = asyncio.create_task(serve())
        async with turns.request(10) as turn:
            for _ in range(10):
                before = len(served)
                await turn.rest()
                assert len(served) > before
        serving.cancel()

    asyncio.run(main())
