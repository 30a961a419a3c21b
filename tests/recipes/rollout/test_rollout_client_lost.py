"""Rollout servers that were started again after a refit: told from an outage, and refitted within the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from client_helpers import FakeServer

from crossthink.errors import EXIT_RESUMABLE, UserError
from crossthink.procs import free_port
from recipes.rl import step as step_module
from recipes.rl.step import MOST_REFITS, with_weights_brought_back
from recipes.rollout.client import asking as asking_module
from recipes.rollout.client import servers as servers_module
from recipes.rollout.client.client import RolloutClient
from recipes.rollout.client.servers import NoServersError, has_lost, problem_of
from recipes.rollout.interface import LostWeightsError, Request, SamplingParams

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=4, stop_ids=(0,), vocabulary=50, seed=3, step=5)
VERSION = 7
REQUESTS = [Request((1, 2, 3), prompt, sample) for prompt in range(6) for sample in range(2)]
# Fails once it is asked, and is well again, but for the weights, when it is looked at.
STARTED_AGAIN = {"status": 500, "times": 1000, "version": None}

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def processes() -> Iterator[list[FakeServer]]:
    started = [FakeServer() for _ in range(2)]
    yield started
    for server in started:
        server.stop()


@pytest.fixture
def fleet(processes: list[FakeServer], monkeypatch: pytest.MonkeyPatch) -> list[FakeServer]:
    """Two honest servers, and a client that is quick to look and to give up."""
    monkeypatch.setattr(servers_module, "FIRST_REST_S", 0.02)
    monkeypatch.setattr(asking_module, "LOST_S", 0.2)
    for server in processes:
        server.script()
    return processes


def indices(*urls: str, outage_limit_s: float = 30.0) -> list[int]:
    """The samples that come of asking these servers."""
    client = RolloutClient(urls, deadline_s=30.0, outage_limit_s=outage_limit_s)
    return sorted(index for index, _ in client.stream(REQUESTS, PARAMS, VERSION))


def test_servers_that_answer_without_the_weights_are_no_outage(fleet: list[FakeServer]) -> None:
    for server in fleet:
        server.script(**STARTED_AGAIN)
    with pytest.raises(LostWeightsError) as lost:
        indices(*(server.url for server in fleet))
    message = str(lost.value)
    assert message.startswith("No rollout server has weight version 7 any more")
    assert message.count("has no whole set of weights") == 2 and all(server.url in message for server in fleet)
    assert lost.value.exit_code == EXIT_RESUMABLE and not isinstance(lost.value, NoServersError)


def test_old_weights_are_lost_weights_too(fleet: list[FakeServer]) -> None:
    fleet[0].script(**{**STARTED_AGAIN, "version": 6})
    with pytest.raises(LostWeightsError, match="has weight version 6; 7 is wanted"):
        indices(fleet[0].url)


def test_a_server_that_is_gone_does_not_hold_up_the_refit_of_the_others(fleet: list[FakeServer]) -> None:
    fleet[0].script(**STARTED_AGAIN)
    gone = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(LostWeightsError) as lost:
        indices(fleet[0].url, gone)
    assert gone in str(lost.value)


def test_servers_that_are_gone_are_an_outage(fleet: list[FakeServer]) -> None:
    with pytest.raises(NoServersError):
        indices(f"http://127.0.0.1:{free_port()}", outage_limit_s=0.5)


def test_one_server_with_the_weights_does_the_others_work(fleet: list[FakeServer]) -> None:
    fleet[0].script(**STARTED_AGAIN)
    fleet[1].script(delay_s=0.05)  # until long after the other is given up
    assert indices(*(server.url for server in fleet)) == list(range(len(REQUESTS)))
    assert fleet[1].seen()["sent"] == len(REQUESTS)


def test_one_that_lets_us_wait_has_not_lost_them(fleet: list[FakeServer]) -> None:
    fleet[0].script(**STARTED_AGAIN)
    fleet[1].script(status=503, times=1, headers={"Retry-After": "1"})
    assert indices(*(server.url for server in fleet)) == list(range(len(REQUESTS)))


@pytest.mark.parametrize(
    "status, body, problem, lost",
    [
        (200, b'{"status": "ok", "engine": "local", "version": 7}', False, False),
        (200, b'{"status": "ok", "engine": "local", "version": 6}', True, True),
        (200, b'{"status": "ok", "engine": "local", "version": null}', True, True),
        (503, b'{"status": "ok", "engine": "local", "version": null}', True, False),
        (200, b'{"status": "ok"}', True, False),
        (200, b"<html>", True, False),
    ],
)
def test_what_healthz_tells(status: int, body: bytes, problem: bool, lost: bool) -> None:
    assert (problem_of(status, body, VERSION) is not None, has_lost(status, body, VERSION)) == (problem, lost)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


class LocalEngine:
    """Generates in this process."""

    def __init__(self) -> None:
        self.refits: list[tuple[Any, int]] = []

    def refit(self, weights: Any, version: int) -> None:
        self.refits.append((weights, version))

    def generate(self, requests: Any, params: Any) -> list[Any]:
        return []


class ServedEngine(LocalEngine):
    """Generates elsewhere."""

    version: int | None = None

    def stream(self, requests: Any, params: Any) -> Iterator[Any]:
        return iter(())

    def rest(self) -> None: ...

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...


def raising(*errors: Exception) -> Callable[[], Any]:
    """Raises these, one a call, and then returns "batch"."""
    left = list(errors)

    def generate() -> Any:
        if left:
            raise left.pop(0)
        return "batch"

    return generate


def brought_back(engine: Any, generate: Callable[[], Any]) -> Any:
    parts: Any = SimpleNamespace(engine=engine, actor=SimpleNamespace(weights="the actor's"))
    return with_weights_brought_back(parts, 5, generate)


def lost(number: int = 0) -> LostWeightsError:
    return LostWeightsError(f"lost {number}.")


def test_lost_weights_are_sent_again_and_the_step_goes_on(alone: None, capfd: pytest.CaptureFixture[str]) -> None:
    engine = ServedEngine()
    assert brought_back(engine, raising()) == "batch" and engine.refits == []
    assert brought_back(engine, raising(lost(1), lost(2))) == "batch"
    assert engine.refits == [("the actor's", 4)] * 2  # the weights with which step 5 began
    assert "step 5: lost 1. They get them once more." in capfd.readouterr().err


def test_servers_that_lose_them_again_and_again_end_the_step(alone: None) -> None:
    engine = ServedEngine()
    assert brought_back(engine, raising(*map(lost, range(MOST_REFITS)))) == "batch"
    with pytest.raises(LostWeightsError, match=f"lost {MOST_REFITS}"):
        brought_back(engine, raising(*map(lost, range(MOST_REFITS + 1))))
    assert len(engine.refits) == 2 * MOST_REFITS


@pytest.mark.parametrize("error", [NoServersError("none"), UserError("the reward server"), ValueError("a bug")])
def test_other_errors_pass_through(alone: None, error: Exception) -> None:
    engine = ServedEngine()
    with pytest.raises(type(error)) as caught:
        brought_back(engine, raising(error))
    assert caught.value is error and engine.refits == []


def test_ranks_that_only_heard_of_it_refit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rank's error reaches the others as a plain UserError; the refit is everybody's."""
    monkeypatch.setattr(step_module, "any_rank", lambda flag: True)
    monkeypatch.setattr(step_module, "is_first_rank", lambda: False)
    engine = ServedEngine()
    assert brought_back(engine, raising(UserError("lost"))) == "batch"
    assert len(engine.refits) == 1


def test_an_engine_in_this_process_has_nothing_to_lose() -> None:
    """Without a process group: nothing collective is done."""
    engine = LocalEngine()
    assert brought_back(engine, raising()) == "batch"
    with pytest.raises(LostWeightsError):
        brought_back(engine, raising(lost()))
    assert engine.refits == []
