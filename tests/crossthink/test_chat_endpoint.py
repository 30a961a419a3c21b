"""The tries of one request: how long each waits, and what ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest

pytest.importorskip("openai")
import openai

from crossthink import endpoint as module
from crossthink.endpoint import Access, Endpoint, EndpointLate, EndpointLost, EndpointRefused

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


@pytest.mark.parametrize("code", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_not_tried_again(pauses: list[float], code: int) -> None:
    with pytest.raises(EndpointRefused, match=rf"refused \({code}\)") as caught:
        tried([status(code)])
    assert caught.value.status == code and pauses == []
    assert ("solving.token=@FILE" in str(caught.value)) == (code in (401, 403))
