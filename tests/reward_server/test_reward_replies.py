"""Requests that may be repeated: a reply that a client missed is kept, a failed one is not."""

import asyncio

import pytest
from reward_helpers import item, run_async

from reward_server.replies import Replies


def test_a_reply_whose_client_left_at_the_last_moment_is_kept():
    async def run():
        replies, calls = Replies(), []

        async def judge():
            calls.append(1)
            return []

        first = asyncio.ensure_future(replies.once("a", [item()], judge))
        await asyncio.sleep(0)  # the request is under way
        await asyncio.sleep(0)  # and judged, while its client has not yet been told
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await replies.once("a", [item()], judge)
        return len(calls)

    assert run_async(run()) == 1


def test_a_failure_is_not_remembered():
    async def run():
        replies = Replies()

        async def fails():
            raise ValueError("no")

        async def judges():
            return ["verdict"]

        with pytest.raises(ValueError):
            await replies.once("a", [item()], fails)
        return await replies.once("a", [item()], judges)

    assert run_async(run()) == ["verdict"]
