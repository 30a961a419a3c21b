"""Objects out of replies: what is one, what is not, and what an endpoint that takes no schema is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("openai")
pytest.importorskip("jsonschema")
from calls_helpers import SCHEMA, calling, chat_of, json_request
from synth_endpoint import BAD_REQUEST, CUT_OFF, MISFIT, PROSE, Running, synth_endpoint

from data_prep.synthesis.calls import request as kinds
from data_prep.synthesis.calls.counters import Counters
from data_prep.synthesis.calls.request import Failed, Request, Structured
from data_prep.synthesis.calls.structured import NoObject, read_object

pytestmark = pytest.mark.timeout(120)
GOOD = '{"answer": "x"}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n {GOOD} \n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```",
        f"<think>{{}} or so?</think>\n{GOOD}",
        f"<think>so</think>```JSON\n{GOOD}```",
    ],
)
def test_an_object(text: str) -> None:
    assert read_object(text, SCHEMA) == {"answer": "x"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("Sure! " + GOOD, "no JSON"),
        (GOOD + GOOD, "no JSON"),
        (f"Here:\n```json\n{GOOD}\n```", "no JSON"),
        (f"```json\n{GOOD}\n```\n```json\n{GOOD}\n```", "no JSON"),
        (f"<think>{GOOD}", "no JSON"),
        ('{"answer": "x"', "no JSON"),
        ('{"answer": "x", "answer": "y"}', "a key is given twice"),
        ('{"answer": NaN}', "NaN is no JSON"),
        ('{"answer": 1e999}', "too large"),
        ('{"answer": ' + "[" * 100_000 + "]" * 100_000 + "}", "no JSON"),
        ('["answer"]', "no object"),
        ('"answer"', "no object"),
        ("{}", r"at \$: 'answer' is a required property"),
        ('{"answer": 1}', r"at \$\.answer: 1 is not of type 'string'"),
        ('{"answer": "x", "more": 1}', "Additional properties"),
    ],
)
def test_no_object(text: str, why: str) -> None:
    with pytest.raises(NoObject, match=why):
        read_object(text, SCHEMA)


def test_half_a_character_in_an_escape_can_be_written() -> None:
    assert read_object('{"answer": "a\\ud800b\\ud83d\\ude00"}', SCHEMA) == {"answer": "a\ufffdb\U0001f600"}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(value=st.dictionaries(st.text(), JSON_VALUES), indent=st.none() | st.just(2), fence=st.booleans())
def test_every_object_is_read_back(value: dict[str, Any], indent: int | None, fence: bool) -> None:
    text = json.dumps(value, indent=indent)
    text = f"```json\n{text}\n```" if fence else text
    if "</think>" not in text:
        assert read_object(text, {"type": "object"}) == value


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet='{}[]",:`ajson1 \n\\<>/think', max_size=40))
def test_any_text_is_an_object_or_is_not(text: str) -> None:
    try:
        value = read_object(text, {})
    except NoObject:
        return
    assert isinstance(value, dict) and "{" in text


def asked(
    server: Running, path: Path, requests: list[Request], **changed: Any
) -> tuple[list[Structured | Failed], Counters]:
    """What the requests for JSON come to, one after the other."""

    async def ask_all() -> tuple[list[Structured | Failed], Counters]:
        async with calling(server.url, path, **changed) as caller:
            return [await caller.ask_json(one) for one in requests], caller.counters

    return asyncio.run(ask_all())


def expected(one: Request, shares: dict[str, float], tries: int) -> tuple[str, int]:
    """The outcome of the last attempt, and how many were made."""
    for attempt in range(tries):
        outcome = chat_of(json_request(number_of(one), attempt=attempt)).outcome(shares)
        if outcome not in (PROSE, MISFIT):
            break
    return outcome, attempt + 1


def number_of(one: Request) -> int:
    return int(one.messages[0]["content"].split()[1].rstrip("?"))


def test_prose_is_asked_again_and_then_a_failure(tmp_path: Path) -> None:
    shares = {PROSE: 0.3, MISFIT: 0.2, CUT_OFF: 0.05}
    requests = [json_request(number) for number in range(60)]
    plan = [expected(one, shares, tries=2) for one in requests]
    assert {outcome for outcome, _ in plan} == {*shares, "right"}
    with synth_endpoint(tmp_path, shares=shares) as server:
        found, counters = asked(server, tmp_path / "store", requests, json_tries=2)
        for one, outcome, (last, _) in zip(requests, found, plan, strict=True):
            if last == "right":
                assert isinstance(outcome, Structured) and outcome.value == {"answer": one.messages[0]["content"]}
            else:
                reason = kinds.CUT_OFF if last == CUT_OFF else kinds.PROSE
                assert isinstance(outcome, Failed) and outcome.reason == reason
        assert counters.calls == len(server.lines()) == sum(tries for _, tries in plan)
        assert {line["purpose"] for line in server.lines()} == {"answer"}  # the schema was sent
        assert counters.failed[kinds.PROSE] == sum(last in (PROSE, MISFIT) for last, _ in plan)
        again, later = asked(server, tmp_path / "store", requests, json_tries=2)
        assert again == found and later.calls == 0 and len(server.lines()) == counters.calls


def test_stored_prose_is_asked_again_on_request(tmp_path: Path) -> None:
    requests = [json_request(number) for number in range(5)]
    with synth_endpoint(tmp_path, shares={PROSE: 1.0}) as server:
        found, _ = asked(server, tmp_path / "store", requests, json_tries=2)
        assert all(isinstance(one, Failed) and one.reason == kinds.PROSE for one in found)
        asked(server, tmp_path / "store", requests * 2, json_tries=2, retry_failed=True)
        assert len(server.lines()) == 20  # twice each, and once more for the start that was to ask again
    with synth_endpoint(tmp_path) as server:
        found, counters = asked(server, tmp_path / "store", requests, json_tries=2, retry_failed=True)
        assert all(isinstance(one, Structured) for one in found) and counters.calls == 5


def test_an_endpoint_that_takes_no_schema_is_asked_without(tmp_path: Path) -> None:
    requests = [json_request(n, messages=[{"role": "user", "content": f"JSON {n}?"}]) for n in range(6)]
    with synth_endpoint(tmp_path, takes_schema=False) as server:
        found, counters = asked(server, tmp_path / "auto", requests)
        assert [one.value["answer"] for one in found if isinstance(one, Structured)] == [f"JSON {n}?" for n in range(6)]
        assert counters.schemas_refused == {"answer"} and counters.tries_again == 1  # remembered after the first
        assert len(server.lines()) == 6
        found, counters = asked(server, tmp_path / "prompt", requests, json_mode="prompt")
        assert all(isinstance(one, Structured) for one in found) and counters.tries_again == 0
        (refused,), _ = asked(server, tmp_path / "schema", requests[:1], json_mode="schema")
        assert isinstance(refused, Failed) and refused.reason == kinds.REFUSED
        assert "response_format is not supported" in refused.said


def test_a_request_that_is_refused_says_nothing_of_schemas(tmp_path: Path) -> None:
    shares = {BAD_REQUEST: 0.4}
    requests = [json_request(number) for number in range(20)]
    refused = [chat_of(one).outcome(shares) == BAD_REQUEST for one in requests]
    requests.sort(key=lambda one: chat_of(one).outcome(shares) != BAD_REQUEST)  # the refused ones first
    with synth_endpoint(tmp_path, shares=shares) as server:
        found, counters = asked(server, tmp_path / "store", requests)
        assert [isinstance(one, Failed) for one in found] == sorted(refused, reverse=True)
        assert counters.schemas_refused == set()
        assert len(server.lines()) == 20 + sum(refused)
