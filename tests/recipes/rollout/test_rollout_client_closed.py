"""A rollout client that was closed: nothing is asked any more, at whatever moment it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from client_helpers import FakeServer

from crossthink.errors import UserError
from recipes.rollout.client import client as client_module
from recipes.rollout.client.client import RolloutClient
from recipes.rollout.interface import Request, SamplingParams

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=4, stop_ids=(0,), vocabulary=50, seed=3, step=5)
VERSION = 7
REQUESTS = [Request((1, 2, 3), prompt, sample) for prompt in range(3) for sample in range(2)]
BEFORE = "The rollout client was closed before samples were asked for."
MEANWHILE = "The rollout client was closed while samples were under way."

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    started = FakeServer()
    yield started
    started.stop()


@pytest.fixture
def client(server: FakeServer) -> RolloutClient:
    return RolloutClient([server.url], deadline_s=2.0, outage_limit_s=2.0)


def said_by(stream: Iterator[Any]) -> str:
    """What the stream raises when it is read."""
    with pytest.raises(UserError) as raised:
        next(stream)
    assert not [thread for thread in threading.enumerate() if thread.name == "rollout-client"]
    return str(raised.value)


def test_a_closed_client_asks_nothing(server: FakeServer, client: RolloutClient) -> None:
    begun = client.stream(REQUESTS, PARAMS, VERSION)
    client.close()
    client.close()
    assert said_by(begun) == BEFORE
    for requests in (REQUESTS, []):
        assert said_by(client.stream(requests, PARAMS, VERSION)) == BEFORE
    assert not server.seen()["bodies"]


def test_a_client_that_was_used_and_left_asks_nothing(server: FakeServer, client: RolloutClient) -> None:
    with client:
        assert len(list(client.stream(REQUESTS, PARAMS, VERSION))) == len(REQUESTS)
    assert said_by(client.stream(REQUESTS, PARAMS, VERSION)) == BEFORE
    assert len(server.seen()["bodies"]) == 1


def closing_at_start(client: RolloutClient, start: Callable[[threading.Thread], None], before: bool) -> Any:
    """`Thread.start` that closes the client right before, or right after, the call's thread starts."""

    def closing(thread: threading.Thread) -> None:
        if thread.name != "rollout-client":
            return start(thread)
        if before:
            client.close()
        start(thread)
        client.close()

    return closing


@pytest.mark.parametrize("before", [True, False])
def test_closing_while_the_calls_thread_starts_ends_it(
    before: bool, server: FakeServer, client: RolloutClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script(answer="hang")  # so that no answer is quicker
    monkeypatch.setattr(threading.Thread, "start", closing_at_start(client, threading.Thread.start, before))
    assert said_by(client.stream(REQUESTS, PARAMS, VERSION)) == MEANWHILE
    if before:
        assert not server.seen()["bodies"]
    assert client.stats()["failures"] == 0


def test_closing_between_the_look_and_the_thread_ends_the_call(
    server: FakeServer, client: RolloutClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closing(client_module.Asking):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            client.close()

    monkeypatch.setattr(client_module, "Asking", Closing)
    assert said_by(client.stream(REQUESTS, PARAMS, VERSION)) == MEANWHILE
    assert not server.seen()["bodies"]
