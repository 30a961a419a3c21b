"""Who takes part in a broadcast: seats of several servers that come, come late, or never do. Threads in one process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.channel import Channel, ChannelError
from recipes.rollout.refit.meeting import Groups, Meeting
from recipes.rollout.refit.offer import Offer
from recipes.rollout.refit.source import read

pytestmark = pytest.mark.timeout(60)
LIMIT_S = 20.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def soon(seconds: float = LIMIT_S) -> float:
    return time.monotonic() + seconds


def heard(channel: Channel, size: int = 3) -> list[int]:
    got = torch.zeros(size, dtype=torch.uint8)
    channel.wait(channel.broadcast(got, LIMIT_S), soon())
    return got.tolist()


def test_seats_are_numbered_anew_without_a_server_that_is_out(threads: ThreadPoolExecutor) -> None:
    meeting = Meeting("127.0.0.1", "gloo")
    seats = {("a", 0): Groups(), ("a", 1): Groups(), ("c", 0): Groups()}

    def turn(ranks: dict[str, int], out: set[str]) -> tuple[Channel, dict[tuple[str, int], Channel]]:
        groups = meeting.groups(ranks)
        joining: dict[tuple[str, int], Future[Channel]] = {
            (url, seat): threads.submit(joined.join, groups[url], seat, LIMIT_S)
            for (url, seat), joined in seats.items()
            if url in ranks and url not in out
        }
        ready = meeting.gather(soon(), lambda url: url in out)
        assert ready == [url for url in ranks if url not in out]
        mine = meeting.begin(ready, LIMIT_S)
        return mine, {who: future.result(LIMIT_S) for who, future in joining.items()}

    def works(mine: Channel, theirs: dict[tuple[str, int], Channel]) -> None:
        listening = [threads.submit(heard, channel) for channel in theirs.values()]
        work = mine.broadcast(torch.tensor([7, 8, 9], dtype=torch.uint8), LIMIT_S)
        mine.wait(work, soon())
        assert [one.result(LIMIT_S) for one in listening] == [[7, 8, 9]] * len(theirs)

    mine, theirs = turn({"a": 2, "b": 1, "c": 1}, out={"b"})
    assert len(theirs) == 3
    works(mine, theirs)
    again, theirs_again = turn({"a": 2, "b": 1, "c": 1}, out={"b"})
    assert again is mine and theirs_again == theirs
    works(again, theirs_again)
    seats["c", 0].close()  # as a server that was started again
    seats["c", 0] = Groups()
    new, theirs_new = turn({"a": 2, "c": 1}, out=set())
    assert new is not mine and theirs_new["a", 0] is not theirs["a", 0]
    works(new, theirs_new)
    works(*turn({"a": 2}, out=set()))
    meeting.leave()
    for joined in seats.values():
        joined.close()


def test_seats_hear_that_they_came_too_late_or_in_vain(threads: ThreadPoolExecutor) -> None:
    meeting = Meeting("127.0.0.1", "gloo")
    group = meeting.groups({"a": 1, "b": 1})
    coming = threads.submit(Groups().join, group["a"], 0, LIMIT_S)
    assert meeting.gather(soon(), lambda url: url == "b") == ["a"]
    meeting.begin(["a"], LIMIT_S)
    coming.result(LIMIT_S)
    with pytest.raises(RefitError, match="too late"):
        Groups().join(group["b"], 0, LIMIT_S)
    group = meeting.groups({"a": 1})
    waiting = threads.submit(Groups().join, group["a"], 0, LIMIT_S)
    meeting.call_off("the disk is full")
    with pytest.raises(RefitError, match="the disk is full"):
        waiting.result(LIMIT_S)
    joined, group = Groups(), meeting.groups({"a": 1})
    joined.failed(group["a"], 0, "no memory")
    assert meeting.has_failed("a")


def test_a_reading_that_is_given_up_before_it_began_leaves_the_group(threads: ThreadPoolExecutor) -> None:
    meeting, joined = Meeting("127.0.0.1", "gloo"), Groups()
    offer = Offer(1, "collective", 64, "xxh3", None, LIMIT_S, group=meeting.groups({"a": 1})["a"])
    coming = threads.submit(read, offer, 0, None, joined)
    mine = meeting.begin(meeting.gather(soon(), lambda url: False), LIMIT_S)
    coming.result(LIMIT_S).close()
    assert meeting.has_failed("a")
    with pytest.raises(ChannelError):
        mine.wait(mine.broadcast(torch.zeros(2**26, dtype=torch.uint8), LIMIT_S), soon())


def test_a_seat_waits_no_longer_than_it_was_told(threads: ThreadPoolExecutor) -> None:
    meeting = Meeting("127.0.0.1", "gloo")
    with pytest.raises(RefitError, match="did not go on"):
        Groups().join(meeting.groups({"a": 1})["a"], 0, 0.2)


def test_a_broadcast_nobody_takes_ends_with_the_deadline_and_leaving_is_heard(threads: ThreadPoolExecutor) -> None:
    meeting, joined = Meeting("127.0.0.1", "gloo"), Groups()
    size = 2**26  # more than fits on the way
    group = meeting.groups({"a": 1})["a"]
    coming = threads.submit(joined.join, group, 0, LIMIT_S)
    mine = meeting.begin(meeting.gather(soon(), lambda url: False), LIMIT_S)
    theirs = coming.result(LIMIT_S)
    with pytest.raises(ChannelError, match="in time"):
        mine.wait(mine.broadcast(torch.zeros(size, dtype=torch.uint8), 0.2), soon(0.2))
    meeting.leave()
    with pytest.raises(ChannelError):
        heard(theirs, size)
    joined.close()
