"""Calls of a scripted endpoint in a process of its own: every kind of answer, and of none."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
from calls_helpers import calling, chat_of, request
from synth_endpoint import (
    BAD_REQUEST,
    BROKEN,
    BUSY,
    CUT_OFF,
    DOWN,
    FILTERED,
    LATE,
    PROSE,
    REFUSAL,
    RIGHT,
    WRONG,
    Running,
    synth_endpoint,
)

from crossthink import endpoint as module
from crossthink.endpoint import EndpointLate, EndpointLost
from crossthink.errors import EXIT_FAILED, EXIT_RESUMABLE, UserError
from data_prep.synthesis.calls import request as kinds
from data_prep.synthesis.calls.budget import BudgetReached
from data_prep.synthesis.calls.caller import Caller
from data_prep.synthesis.calls.counters import Counters
from data_prep.synthesis.calls.request import Failed, Reply, Request, Usage
from data_prep.synthesis.calls.store import AnswerStore

pytestmark = pytest.mark.timeout(120)
SHARES = {WRONG: 0.2, BUSY: 0.1, BROKEN: 0.1, REFUSAL: 0.1, FILTERED: 0.05, BAD_REQUEST: 0.1, CUT_OFF: 0.15}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)


def asked(
    server: Running, path: Path, requests: list[Request], **settings: Any
) -> tuple[list[Reply | Failed], Counters]:
    """What the requests come to, all asked at once."""

    async def ask_all() -> tuple[list[Reply | Failed], Counters]:
        async with calling(server.url, path, **settings) as caller:
            return list(await asyncio.gather(*map(caller.ask, requests))), caller.counters

    return asyncio.run(ask_all())


def test_every_kind_of_answer_and_nothing_twice(tmp_path: Path) -> None:
    requests = [request(number) for number in range(150)]
    expected = {one.key("small"): chat_of(one).outcome(SHARES) for one in requests}
    assert set(expected.values()) == {*SHARES, RIGHT}
    with synth_endpoint(tmp_path, shares=SHARES) as server:
        found, counters = asked(server, tmp_path / "store", requests)
        for one, outcome in zip(requests, found, strict=True):
            match expected[one.key("small")]:
                case "right" | "busy" | "broken":
                    assert isinstance(outcome, Reply) and outcome.text == one.messages[0]["content"]
                    assert outcome.usage == Usage(1, 1 + len(outcome.text) // 4, 1 + len(outcome.text) // 4)
                case "wrong":
                    assert isinstance(outcome, Reply) and outcome.text == WRONG
                case "refusal":
                    assert outcome == Failed(kinds.REFUSED, "I cannot help with that.")
                case "bad_request":
                    assert outcome == Failed(kinds.REFUSED, "400: the prompt is too long")
                case "filtered":
                    assert isinstance(outcome, Failed) and outcome.reason == kinds.REFUSED
                case _:
                    assert isinstance(outcome, Failed) and outcome.reason == kinds.CUT_OFF
                    assert outcome.said.startswith("after 50 tokens: ")
        tally = Counter(expected.values())
        refused = tally[REFUSAL] + tally[FILTERED] + tally[BAD_REQUEST]
        assert counters.failed == {kinds.REFUSED: refused, kinds.CUT_OFF: tally[CUT_OFF]}
        assert (counters.calls, counters.tries_again) == (150, tally[BUSY] + tally[BROKEN])
        assert 1 < counters.most_under_way <= 8 and counters.under_way == 0 and counters.waiting_s > 0
        assert len(server.lines()) == counters.calls + counters.tries_again

        again, later = asked(server, tmp_path / "store", requests)
        assert again == found and later.calls == 0 and later.from_store == 150 and later.failed == counters.failed
        assert len(server.lines()) == counters.calls + counters.tries_again
        with AnswerStore(tmp_path / "store") as store:
            assert store.spent()["question"].tokens == counters.used.tokens > 0
            assert store.spent()["question"].calls == 150


def test_what_is_stored_needs_no_endpoint(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path) as server:
        found, _ = asked(server, tmp_path / "store", [request(1)])
    assert asked(server, tmp_path / "store", [request(1)])[0] == found


def test_the_same_request_twice_at_a_time_is_one_call(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path, delay_s=0.2) as server:
        found, _ = asked(server, tmp_path / "store", [request(1)] * 5 + [request(1, draw=1)])
        assert len(set(found)) == 1 and len(server.lines()) == 2


def test_the_only_listed_model_is_asked(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path, models=["large"]) as server:
        found, _ = asked(server, tmp_path / "store", [request(1)], model=None)
    assert isinstance(found[0], Reply) and found[0].model == "large"


def test_reasoning_is_joined_and_what_is_not_counted_is_the_most_it_can_be(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path, reasoning="so", usage=False) as server:
        (found,), _ = asked(server, tmp_path / "store", [request(1)])
    text = "<think>so</think>Question 1?"
    assert found == Reply(text, "small", Usage(1, request(1).most().prompt_tokens, len(text)))


def test_late_is_a_failure_of_the_request_and_is_paid_for(tmp_path: Path) -> None:
    requests = [request(number) for number in range(20)]
    late = {one.key("small") for one in requests if chat_of(one).outcome({LATE: 0.2}) == LATE}
    with synth_endpoint(tmp_path, shares={LATE: 0.2}, late_s=30) as server:
        settings: dict[str, Any] = {"deadline_s": 1.0, "retries": 1, "concurrency": 20}
        found, counters = asked(server, tmp_path / "store", requests, **settings)
        assert [isinstance(one, Failed) for one in found] == [one.key("small") in late for one in requests]
        assert counters.failed == {kinds.LATE: len(late)} and counters.tries_again == len(late) > 0
        again, later = asked(server, tmp_path / "store", requests, **settings)
        assert again == found and later.calls == 0
    with AnswerStore(tmp_path / "store") as store:
        spent = store.spent()["question"]
    assert spent.calls == 20 + len(late)  # two tries of each late one
    assert spent.completion_tokens >= 2 * 50 * len(late)


def test_all_late_is_an_endpoint_that_is_lost(tmp_path: Path) -> None:
    requests = [request(number) for number in range(12)]
    with synth_endpoint(tmp_path, shares={LATE: 1.0}, late_s=30) as server:
        with pytest.raises(EndpointLost, match="late with 3 requests in a row") as caught:
            asked(server, tmp_path / "store", requests, deadline_s=0.3, retries=0, late_in_a_row=3, concurrency=2)
        assert not isinstance(caught.value, EndpointLate) and caught.value.exit_code == EXIT_RESUMABLE
    with AnswerStore(tmp_path / "store") as store:
        assert len(store) == 0 and store.spent()["question"].calls >= 3


@pytest.mark.parametrize("script", [{"shares": {DOWN: 1.0}}, {"dies_after": 5}])
def test_an_endpoint_that_is_gone_ends_it_resumable(tmp_path: Path, script: dict[str, Any]) -> None:
    requests = [request(number) for number in range(30)]
    with synth_endpoint(tmp_path, **script) as server:
        with pytest.raises(EndpointLost, match="did not answer in 3 tries") as caught:
            asked(server, tmp_path / "store", requests, concurrency=2)
        answered = {line["key"] for line in server.lines()[: script.get("dies_after", 0)]}
    assert caught.value.exit_code == EXIT_RESUMABLE
    with AnswerStore(tmp_path / "store") as store:
        outcomes = [store.get(one.key("small")) for one in requests]
        assert not any(isinstance(one, Failed) for one in outcomes)
        assert sum(one is not None for one in outcomes) <= len(answered)
    with synth_endpoint(tmp_path) as server:
        found, counters = asked(server, tmp_path / "store", requests)
        assert all(isinstance(one, Reply) for one in found)
        assert counters.from_store == sum(one is not None for one in outcomes)


def test_whoever_may_not_ask_is_told_at_once(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path, key="s3cret") as server:
        with pytest.raises(UserError, match=r"refused \(401\): Incorrect API key.*request\.token=@FILE") as caught:
            asked(server, tmp_path / "store", [request(1)])
        assert caught.value.exit_code == EXIT_FAILED and server.lines() == []
        assert isinstance(asked(server, tmp_path / "store", [request(1)], token="s3cret")[0][0], Reply)


def test_failures_are_asked_again_on_request_and_replies_are_not(tmp_path: Path) -> None:
    requests = [request(number) for number in range(40)]
    with synth_endpoint(tmp_path, shares={REFUSAL: 0.3, PROSE: 0.1}) as server:
        before, counters = asked(server, tmp_path / "store", requests)
    with synth_endpoint(tmp_path) as server:
        after, later = asked(server, tmp_path / "store", requests * 2, retry_failed=True)
        assert later.calls == counters.failed[kinds.REFUSED] == len(server.lines()) > 0
    assert all(isinstance(one, Reply) for one in after)
    kept = [(old, new) for old, new in zip(before, after, strict=False) if isinstance(old, Reply)]
    assert len(kept) == 40 - later.calls and all(old == new for old, new in kept)
    with AnswerStore(tmp_path / "store") as store:
        assert store.spent()["question"].calls == 40 + later.calls


def test_a_budget_ends_it_resumable_with_all_paid_answers_kept(tmp_path: Path) -> None:
    requests = [request(number) for number in range(40)]
    most = request(10).most().tokens
    limit = most * 3
    with synth_endpoint(tmp_path, delay_s=0.05) as server:
        with pytest.raises(BudgetReached, match=rf"budget\.tokens={limit}: \d+ are spent") as caught:
            asked(server, tmp_path / "store", requests, tokens=limit)
        assert caught.value.exit_code == EXIT_RESUMABLE
        with AnswerStore(tmp_path / "store") as store:
            spent = store.spent()["question"]
            assert len(store) == len(server.lines()) == spent.calls >= 3
        assert limit - most < spent.tokens <= limit
        made = len(server.lines())
        with pytest.raises(BudgetReached):  # what was spent before counts
            asked(server, tmp_path / "store", requests, tokens=limit)
        assert len(server.lines()) == made
        assert len(asked(server, tmp_path / "store", requests, tokens=10**6)[0]) == 40
        assert len(server.lines()) == 40


async def ask_and_leave(caller: Caller, server: Running) -> None:
    """Ask, and be cancelled while the endpoint is at work."""
    asking = asyncio.ensure_future(caller.ask(request(1)))
    while not server.lines():
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


def test_a_call_outlives_another_callers_budget(tmp_path: Path) -> None:
    async def ask_and_stop(server: Running) -> None:
        async with calling(server.url, tmp_path / "store") as caller:
            await ask_and_leave(caller, server)
            raise BudgetReached("of the solver")

    with synth_endpoint(tmp_path, delay_s=0.3) as server:
        with pytest.raises(BudgetReached, match="of the solver"):
            asyncio.run(ask_and_stop(server))
        assert len(server.lines()) == 1
    with AnswerStore(tmp_path / "store") as store:
        assert len(store) == 1


def test_a_call_outlives_whoever_asked(tmp_path: Path) -> None:
    async def ask_once(server: Running) -> None:
        async with calling(server.url, tmp_path / "store") as caller:
            await ask_and_leave(caller, server)

    with synth_endpoint(tmp_path, delay_s=0.3) as server:
        asyncio.run(ask_once(server))
        found, counters = asked(server, tmp_path / "store", [request(1)])
    assert isinstance(found[0], Reply) and counters.calls == 0
