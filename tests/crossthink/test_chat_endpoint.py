"""The tries of one request: how long each waits, and what ends them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import httpx
import pytest

pytest.importorskip("openai")
import openai

from crossthink import endpoint as module
from crossthink.endpoint import Access, Endpoint, EndpointLate, EndpointLost, EndpointRefused, Said
from crossthink.errors import ConfigError, UserError

pytestmark = pytest.mark.timeout(60)
REQUEST = httpx.Request("POST", "http://127.0.0.1:9/v1")
LATE = asyncio.TimeoutError()
GONE = openai.APIConnectionError(request=REQUEST)


def status(code: int, retry_after: str | None = None) -> openai.APIStatusError:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return openai.APIStatusError("no", response=httpx.Response(code, headers=headers, request=REQUEST), body=None)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept, without sleeping."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    return found


def tried(failures: list[Exception], retries: int = 9) -> str:
    left: Iterator[Exception] = iter(failures)

    async def once() -> str:
        failure = next(left, None)
        if failure is not None:
            raise failure
        return "done"

    access = Access("http://127.0.0.1:9/v1", "m", None, 2.5, retries, name="solver", group="solving")
    return asyncio.run(Endpoint(access).tries(once))


def test_pauses_double_and_are_bounded(pauses: list[float]) -> None:
    assert tried([status(500)] * 4 + [GONE, LATE, status(429), status(408)]) == "done"
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_retry_after_is_respected_and_bounded(pauses: list[float]) -> None:
    assert tried([status(429, "7.5"), status(429, "9999"), status(503, "-1"), status(429, "Fri, 1 Jan")]) == "done"
    assert pauses == [7.5, 60, 4, 8]


@pytest.mark.parametrize(
    ("failures", "kind", "said"),
    [
        ([LATE] * 3, EndpointLate, "3 tries. The last ended with: no answer within solving.deadline_s=2.5"),
        ([LATE, GONE, LATE], EndpointLost, "solver=http://127.0.0.1:9/v1 did not answer in 3 tries"),
        ([status(503)] * 3, EndpointLost, "did not answer in 3 tries"),
    ],
)
def test_tries_in_vain(pauses: list[float], failures: list[Exception], kind: type, said: str) -> None:
    with pytest.raises(EndpointLost) as caught:
        tried(failures, retries=2)
    assert type(caught.value) is kind and said in str(caught.value)


REPLY = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}


def said(*bodies: bytes, retries: int = 2) -> Said:
    """What one request comes to, where the server's replies have these bodies, all of them with status 200."""
    left = iter(bodies)
    headers = {"content-type": "application/json"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=next(left)))

    async def ask() -> Said:
        one = Endpoint(Access("http://127.0.0.1:9/v1", "m", None, 2.5, retries))
        http = httpx.AsyncClient(transport=transport)
        one._client = openai.AsyncOpenAI(base_url=one.url, api_key="x", max_retries=0, http_client=http)
        return await one.tries(lambda: one.once("m", [{"role": "user", "content": "?"}]))

    return asyncio.run(ask())


def completion(content: object, **more: object) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    return json.dumps({**REPLY, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize("broken", [b'{"choices": [{"mess', b"", b'"\xff\xfe\x00"'])
def test_a_reply_that_is_cut_off_is_asked_for_again(pauses: list[float], broken: bytes) -> None:
    assert said(broken, broken, completion("a")).text == "a" and pauses == [1, 2]
    with pytest.raises(EndpointLost, match="did not answer in 2 tries. The last ended with: a reply that cannot be de"):
        said(broken, broken, retries=1)


def test_vectors_that_are_cut_off_are_asked_for_again(pauses: list[float]) -> None:
    bodies = iter([b'{"data": [', json.dumps({"data": [{"index": 0, "embedding": [1, 2]}]}).encode()])
    headers = {"content-type": "application/json"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=next(bodies)))

    async def ask() -> list[list[float]]:
        one = Endpoint(Access("http://127.0.0.1:9/v1", "m", None, 2.5, 1))
        http = httpx.AsyncClient(transport=transport)
        one._client = openai.AsyncOpenAI(base_url=one.url, api_key="x", max_retries=0, http_client=http)
        return await one.tries(lambda: one.vectors("m", ["a"]))

    assert asyncio.run(ask()) == [[1.0, 2.0]] and pauses == [1]


def test_an_answer_in_parts_is_joined() -> None:
    assert said(completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])).text == "ab"
    assert said(completion([])).text == ""


@pytest.mark.parametrize("content", [5, {"text": "a"}, [{"type": "thinking", "thinking": "a"}], ["a"], [{"text": "a"}]])
def test_an_answer_that_is_no_text_is_refused(content: object, pauses: list[float]) -> None:
    with pytest.raises(UserError, match="endpoint=http://127.0.0.1:9/v1 answered with something else than a chat comp"):
        said(completion(content))
    assert pauses == []


def test_reasoning_that_was_joined_is_told() -> None:
    assert said(completion("a", reasoning="so")).reasoned
    assert not said(completion("a")).reasoned and not said(completion("so</think>a", reasoning="so")).reasoned


@pytest.mark.parametrize("url", ["http://[::1", "http://a:b/v1", "http://a\x01/v1", "file:///x", "http://:80"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match=f"solver={re.escape(url)} is no address. Give one such as http://127.0.0.1"):
        Endpoint(Access(url, "m", None, 2.5, 0, name="solver"))


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_tried_again(pauses: list[float], code: int) -> None:
    with pytest.raises(EndpointRefused, match=rf"refused \({code}\)") as caught:
        tried([status(code)])
    assert caught.value.status == code and pauses == []
    assert ("solving.token=@FILE" in str(caught.value)) == (code in (401, 403))
