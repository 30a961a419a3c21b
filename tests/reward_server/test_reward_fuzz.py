"""Bodies that fit the server's own OpenAPI schema, bodies that do not, and bytes that are no body: never a 500."""

import http.client
import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from reward_helpers import item, serving

schemathesis = pytest.importorskip("schemathesis")

ALLOWED = {200, 413, 422}
SCRAPS = [b"{", b"}", b"[", b"]", b'"items"', b":", b",", b'"id"', b"1e999", b"null", b"\\ud800", b"\x00", b"\xff"]
SCRAPS += [b'{"items":[', b'{"id":"a","kind":"math","response":"', b'","ground_truth":"5"}', b"]}", b"NaN", b'"']
SCRAPS += [b"\\boxed{"]
FUZZ = settings(
    deadline=None,
    phases=(Phase.generate,),
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def fuzzed():
    """A server with room for what the fuzzer thinks of, and its two strategies from the OpenAPI document."""
    with serving(workers=1, deadline_s=1.0) as (_, url):
        schema = schemathesis.openapi.from_url(url + "/openapi.json")
        modes = schemathesis.GenerationMode
        operation = schema["/v1/score"]["POST"]
        yield url, operation.as_strategy(modes.POSITIVE), operation.as_strategy(modes.NEGATIVE)
        with Asking(url) as ask:
            status, reply = ask(json.dumps({"items": [item().to_json()]}).encode())
        assert status == 200 and reply["items"][0]["status"] == "correct", "healthy after all that"


class Asking:
    """One kept connection to /v1/score, opened again where the server closed it."""

    def __init__(self, url):
        self._address = url.removeprefix("http://")

    def __enter__(self):
        self._connection = http.client.HTTPConnection(self._address, timeout=60)
        return self

    def __exit__(self, *_):
        self._connection.close()

    def __call__(self, body):
        self._connection.request("POST", "/v1/score", body, {"Content-Type": "application/json"})
        reply = self._connection.getresponse()
        return reply.status, json.loads(reply.read())


def encode(body):
    """A generated body as bytes; what JSON cannot say is left to the bytes below."""
    if isinstance(body, bytes):
        return body
    return json.dumps(body, default=repr).encode() if body is not schemathesis.core.NotSet else b""


def fuzz(fuzzed, count):
    """Send `count` bodies. Returns how many got each status."""
    url, fitting, unfitting = fuzzed
    seen = {}
    raw = st.one_of(st.binary(), st.lists(st.sampled_from(SCRAPS), max_size=12).map(b"".join))
    with Asking(url) as ask:

        def check(body, allowed):
            status, reply = ask(body)
            # The fuzzer likes to use a request id again.
            used = status == 422 and reply["detail"].endswith("was used for other items")
            assert used or status in allowed, (status, body[:300], reply)
            if status == 200:
                assert len(reply["items"]) == len(json.loads(body)["items"])
            else:
                assert reply["detail"]
            seen[status] = seen.get(status, 0) + 1

        def send(strategy, allowed, share):
            @settings(FUZZ, max_examples=round(share * count))
            @given(strategy)
            def run(case):
                check(case if isinstance(case, bytes) else encode(case.body), allowed)

            run()

        send(fitting, {200}, 0.4)
        send(unfitting, ALLOWED, 0.3)
        send(raw, ALLOWED, 0.3)
    return seen


@pytest.mark.timeout(120)
def test_three_hundred_bodies(fuzzed):
    seen = fuzz(fuzzed, 300)
    assert seen[200] >= 40 and seen[422] >= 100, seen


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_bodies(fuzzed):
    seen = fuzz(fuzzed, 10_000)
    assert sum(seen.values()) >= 9_500 and seen[200] >= 2_000 and seen[422] >= 3_000, seen
    print(seen)
