"""The rollout server's own endpoints over HTTP, in front of a made-up engine: the contract, and what goes wrong."""

from __future__ import annotations

import contextlib
import functools
import json
import operator
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from serve_helpers import (
    LIMITS,
    FakeServed,
    Served,
    body,
    group,
    in_background,
    made_up,
    offer,
    sampling,
    serving,
    wait_until,
)

from recipes.rollout.interface import Request, RequestError, SamplingParams
from recipes.rollout.server import streams

SAMPLE_KEYS = {"prompt", "sample", "token_ids", "log_probs", "finish_reason", "weight_version"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """A server for the tests that do it no harm."""
    with serving(max_queue=64, max_body_mb=1) as served:
        yield served


def test_every_sample_is_a_line_and_the_last_line_counts_them(shared: Served) -> None:
    groups = [group(4, (2, 0, 9)), group(7, (1, 5), max_tokens=[3, 64])]
    reply = shared.post("/v1/generate", body(*groups, version=0))
    assert reply.headers["content-type"] == "application/x-ndjson" and "content-length" not in reply.headers
    *samples, last = [json.loads(line) for line in reply.text.splitlines()]
    assert last == {"done": 5}
    found = {(one["prompt"], one["sample"]): one for one in samples}
    params = SamplingParams(1.0, 1.0, 8, (7,), 50, 3, 5)
    for prompt, sample, budget in [(4, 2, None), (4, 0, None), (4, 9, None), (7, 1, 3), (7, 5, 64)]:
        expected = made_up(Request((1, 2, 3 + prompt), prompt, sample, budget), params, 0)
        one = found.pop((prompt, sample))
        assert set(one) == SAMPLE_KEYS and one["weight_version"] == 0
        assert (one["token_ids"], one["finish_reason"]) == (expected.token_ids, expected.finish_reason)
        assert one["log_probs"] == expected.log_probs
    assert not found


@pytest.mark.parametrize(
    ("wrong", "status", "parts"),
    [
        (b"{", 400, ["body", "JSON"]),
        (b"[" * 100_000, 400, ["body"]),
        (b"\xff", 400, ["body"]),
        (b"", 422, ["sampling"]),
        (b"[]", 422, ["JSON object"]),
        (b" " * (2 << 20), 413, ["max_body_mb=1"]),
        (body(beam=3), 422, ['"beam"', "sampling, groups, version"]),
        (body(sampling={**sampling(), "top_k": 4}), 422, ['sampling."top_k"', "top_p"]),
        (body(sampling={k: v for k, v in sampling().items() if k != "seed"}), 422, ["sampling.seed", "missing"]),
        (body(sampling=sampling(temperature=-1)), 422, ["sampling.temperature", "-1"]),
        (body(sampling=sampling(temperature=1e-9)), 422, ["sampling.temperature", "0.001"]),
        (body(sampling=sampling(temperature=float("nan"))), 422, ["sampling.temperature", "NaN"]),
        (body(sampling=sampling(top_p=0)), 422, ["sampling.top_p"]),
        (body(sampling=sampling(vocabulary=513)), 422, ["sampling.vocabulary", "512"]),
        (body(sampling=sampling(max_tokens=10**9)), 422, ["sampling.max_tokens", "4000"]),
        (body(sampling=sampling(stop_ids=[512])), 422, ["sampling.stop_ids", "511"]),
        (body(sampling=sampling(seed=True)), 422, ["sampling.seed", "true"]),
        (body(group(prompt_ids=[1, 512])), 422, ["groups[0].prompt_ids", "512", "0 to 511"]),
        (body(group(prompt_ids=[-1])), 422, ["groups[0].prompt_ids", "-1"]),
        (body(group(prompt_ids=[10**30])), 422, ["groups[0].prompt_ids"]),
        (body(group(prompt_ids=[1.0])), 422, ["groups[0].prompt_ids", "token ids"]),
        (body(group(prompt_ids=[])), 422, ["groups[0].prompt_ids", "empty"]),
        (body(group(0), group(1, prompt_ids=[1] * 41)), 422, ["groups[1].prompt_ids", "41", "40"]),
        (body(group(), sampling=sampling(max_tokens=4000)), 422, ["groups[0].max_tokens", "4000"]),
        (body(group(samples=[])), 422, ["groups[0].samples"]),
        (body(group(samples=[1, 1])), 422, ["sample 1 of prompt 0", "twice"]),
        (body(group(max_tokens=[4])), 422, ["groups[0].max_tokens", "2"]),
        (body(group(max_tokens=[4, 0])), 422, ["groups[0].max_tokens", "0"]),
        (body(group(name=1)), 422, ['groups[0]."name"', "prompt_ids"]),
        (body(groups=[]), 422, ["groups"]),
        (body(version=-1), 422, ["version"]),
        (body(group(samples=range(65))), 422, ["65", "max_queue=64"]),
    ],
    ids=range(32),
)
def test_what_is_refused_and_why(shared: Served, wrong: object, status: int, parts: list[str]) -> None:
    reply = shared.post("/v1/generate", wrong)
    assert reply.status_code == status, reply.text
    assert all(part in reply.json()["detail"] for part in parts), reply.json()["detail"]


def test_health_and_identity(shared: Served) -> None:
    health = shared.http.get("/healthz").json()
    assert health == {
        "status": "ok", "engine": "local", "version": 0, "running": 0, "waiting": 0, "model": "small"
    }  # fmt: skip
    assert shared.http.get("/readyz").status_code == 200
    facts = shared.http.get("/v1/refit").json()
    assert facts["torch"].startswith("2.") and "+" not in facts["torch"] and facts["backend"] == "gloo"
    assert facts["ranks"] == 1 and facts["version"] == 0 and facts["deterministic"] is True
    assert facts["tensors"] == {"a.weight": ["float32", [2, 3]]}
    assert facts["limits"] == {"max_prompt_tokens": 40, "max_total_tokens": 4000, "vocabulary": 512}
    assert facts["machine"] and facts["start"] and facts["weights_dir"] and facts["nccl"] is None


def test_another_version_is_a_conflict_that_says_which_one_is_here(shared: Served) -> None:
    reply = shared.post("/v1/generate", body(version=7))
    assert reply.status_code == 409 and reply.json()["version"] == 0 and "7" in reply.json()["detail"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 600) | st.floats() | st.text(max_size=4) | st.just(2**80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PLACES = [("sampling",), ("groups",), ("version",), ("groups", 0), ("new",)]
PLACES += [("sampling", key) for key in [*sampling(), "new"]] + [("groups", 0, key) for key in [*group(), "max_tokens"]]


@settings(max_examples=60, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
@given(
    places=st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=2),
    elsewhere=st.sampled_from(["/v1/refit", "/v1/abort", "/v1/completions", "/v1/chat/completions"]),
)
def test_no_body_makes_it_fail(shared: Served, places: list, elsewhere: str) -> None:
    wrong = body()
    for (*way, last), value in places:
        with contextlib.suppress(KeyError, IndexError, TypeError):  # the first value may stand where the second goes
            functools.reduce(operator.getitem, way, wrong)[last] = value
    reply = shared.post("/v1/generate", wrong)
    assert reply.status_code in (200, 409, 413, 422), reply.text
    if reply.status_code == 200:
        assert "done" in json.loads(reply.text.splitlines()[-1])
    assert shared.post(elsewhere, wrong).status_code in (400, 422)


def test_a_silent_engine_is_said_to_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALIVE_S", 0.05)
    with serving() as served:
        served.engine.held.set()
        with served.http.stream("POST", "/v1/generate", json=body(group(samples=(0, 1, 2)))) as reply:
            lines = reply.iter_lines()
            assert json.loads(next(lines)) == {"alive": 3} == json.loads(next(lines))
            served.engine.held.clear()
            rest = [json.loads(line) for line in lines]
        assert rest[-1] == {"done": 3} and sum("sample" in one for one in rest) == 3


def test_an_engine_that_hangs_gives_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "ALIVE_S", 0.02)
    with serving() as served:
        served.engine.free_tokens = 100
        served.engine.held.set()
        with served.http.stream("POST", "/v1/generate", json=body(group(samples=(0,)))) as reply:
            lines = reply.iter_lines()
            assert json.loads(next(lines)) == {"alive": 1}, "the first look cannot tell yet"
            seen = served.engine.looks
            wait_until(lambda: served.engine.looks > seen + 5)
            served.engine.free_tokens = 99
            assert json.loads(next(lines)) == {"alive": 1}
            served.engine.held.clear()
            assert [list(json.loads(line))[0] for line in lines] == ["prompt", "done"]


def test_a_client_that_goes_away_aborts_its_samples() -> None:
    with serving(max_queue=10) as served:
        served.engine.held.set()
        with served.http.stream("POST", "/v1/generate", json=body(group(samples=range(6)))):
            full = served.post("/v1/generate", body(group(samples=range(5))))
            assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
            assert "max_queue=10" in full.json()["detail"]
            assert served.http.get("/healthz").json()["running"] == 6
        wait_until(lambda: served.engine.aborted == 6)
        served.engine.held.clear()
        assert served.generate(body(group(samples=range(10))))[-1] == {"done": 10}
        assert served.metric("aborted_total") == 6
        assert served.metric('http_requests_total{code="429",path="/v1/generate"}') == 1


def test_abort_ends_everything_under_way() -> None:
    with serving() as served:
        served.engine.held.set()
        with served.http.stream("POST", "/v1/generate", json=body(group(samples=range(4)))) as reply:
            assert served.post("/v1/abort", {}).json() == {"aborted": 4}
            (last,) = [json.loads(line) for line in reply.iter_lines()]
        assert "abort" in last["error"]
        assert served.post("/v1/abort", {}).json() == {"aborted": 0}
        assert served.post("/v1/abort", {"x": 1}).status_code == 422


def test_a_refit_waits_for_what_is_under_way_and_new_requests_wait_for_it() -> None:
    with serving() as served:
        engine = served.engine
        engine.held.set()
        first = in_background(lambda: served.generate(body()))
        wait_until(lambda: engine.load()["running"] == 2)
        refit = in_background(lambda: served.post("/v1/refit", offer(1, timeout_s=1e6)))
        wait_until(lambda: served.service.changing)
        for path, another in (("/v1/refit", offer(2)), ("/v1/sleep", {})):
            reply = served.post(path, another)
            assert reply.status_code == 409 and reply.json()["version"] == 0
            assert "one at a time" in reply.json()["detail"]
        second = in_background(lambda: served.generate(body(version=1)))
        stale = in_background(lambda: served.post("/v1/generate", body(version=0)))
        wait_until(lambda: served.service.under_way == 6)
        assert not engine.refits
        engine.held.clear()
        assert refit().json() == {"version": 1, "tensors": 2, "bytes": 1000, "checksum": "ab", "seconds": 0.1}
        assert engine.refits[0]["timeout_s"] == 600.0, "no longer than refit_deadline_s"
        assert {one["weight_version"] for one in first()[:-1]} == {0}
        assert {one["weight_version"] for one in second()[:-1]} == {1}
        assert stale().status_code == 409 and stale().json()["version"] == 1
        assert served.metric('refits_total{result="done"}') == 1 and served.metric("weight_version") == 1


def test_a_refit_gives_up_when_nothing_ends() -> None:
    with serving(refit_deadline_s=0.2) as served:
        served.engine.held.set()
        generating = in_background(lambda: served.generate(body()))
        wait_until(lambda: served.engine.load()["running"] == 2)
        reply = served.post("/v1/refit", offer(1))
        assert (
            reply.status_code == 409 and reply.json()["version"] == 0 and "refit_deadline_s" in reply.json()["detail"]
        )
        served.engine.held.clear()
        assert generating()[-1] == {"done": 2} and served.generate(body())[-1] == {"done": 2}


def test_a_trainer_that_goes_away_gives_its_turn_up() -> None:
    with serving() as served:
        served.engine.held.set()
        generating = in_background(lambda: served.generate(body()))
        wait_until(lambda: served.engine.load()["running"] == 2)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(served.url + "/v1/refit", json=offer(1), timeout=0.3)
        wait_until(lambda: not served.service.changing)
        served.engine.held.clear()
        assert generating()[-1] == {"done": 2} and not served.engine.refits


def test_an_unread_reply_does_not_hold_a_refit_up() -> None:
    with serving() as served:
        wanted = body(group(samples=range(400)), sampling=sampling(max_tokens=3000, stop_ids=[]))
        with served.http.stream("POST", "/v1/generate", json=wanted) as reply:
            assert reply.status_code == 200
            assert httpx.post(served.url + "/v1/refit", json=offer(1), timeout=20).json()["version"] == 1
            assert served.service.under_way == 400, "most of it still waits to be read"


def test_refits_that_fail() -> None:
    with serving() as served:
        served.engine.refit_failure = "before"
        reply = served.post("/v1/refit", offer(1))
        assert reply.status_code == 409 and reply.json() == {"detail": "it failed before", "version": 0}
        assert served.generate(body())[-1] == {"done": 2}
        served.engine.refit_failure = "midway"
        reply = served.post("/v1/refit", offer(1))
        assert reply.status_code == 500 and reply.json()["version"] is None
        refused = served.post("/v1/generate", body())
        assert refused.status_code == 503 and refused.headers["retry-after"] and "weights" in refused.json()["detail"]
        assert served.http.get("/readyz").status_code == 503 and served.http.get("/healthz").status_code == 200
        assert served.metric("weight_version") == -1 and served.metric('refits_total{result="failed"}') == 1
        served.engine.refit_failure = None
        assert served.post("/v1/refit", offer(2)).json()["version"] == 2
        assert served.generate(body(version=2))[-1] == {"done": 2}


def test_a_refit_reads_below_its_own_folder_only(tmp_path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "a").mkdir(parents=True)
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    with serving(weights_dir=str(inside)) as served:
        for folder in (outside, inside, inside / "link", inside / ".." / "out", "/etc", "a\0b"):
            reply = served.post("/v1/refit", offer(1, folder=str(folder)))
            assert reply.status_code == 422 and reply.json()["version"] == 0 and "folder" in reply.json()["detail"]
        assert served.post("/v1/refit", {"version": 1}).status_code == 422
        assert not served.engine.refits
        assert served.post("/v1/refit", offer(1, folder=str(inside / "a"))).status_code == 200


def test_sleep_and_wake() -> None:
    with serving() as served:
        assert served.post("/v1/sleep", {}).json() == {"version": None} == served.post("/v1/sleep", {}).json()
        asleep = served.post("/v1/generate", body())
        assert asleep.status_code == 503 and "asleep" in asleep.json()["detail"]
        assert served.post("/v1/refit", offer(1)).status_code == 409
        assert served.post("/v1/wake", {}).json() == {"version": None}
        assert served.post("/v1/refit", offer(1)).json()["version"] == 1
        assert served.post("/v1/wake", b"").json() == {"version": 1}
        assert served.generate(body())[-1] == {"done": 2}


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (RequestError("max_tokens: too dear"), 422, "too dear"),
        (ZeroDivisionError("by zero"), 500, "ZeroDivisionError"),
    ],
)
def test_an_engine_that_fails_at_once_gives_a_status_and_midway_a_line(
    failure: Exception, status: int, text: str
) -> None:
    with serving() as served:
        served.engine.failure, served.engine.fail_after = failure, 0
        reply = served.post("/v1/generate", body())
        assert reply.status_code == status and text in reply.json()["detail"]
        served.engine.fail_after = 1
        *samples, last = served.generate(body(group(samples=(0, 1, 2))))
        assert len(samples) == 1 and text in last["error"]
        served.engine.fail_after = None
        served.engine.refusal = RequestError("prompt_ids: not these")
        assert served.post("/v1/generate", body()).json() == {"detail": "prompt_ids: not these"}
        served.engine.refusal = None
        assert served.generate(body())[-1] == {"done": 2}


def test_a_token_is_needed_where_one_is_set() -> None:
    with serving(token="secret") as served:
        assert httpx.post(served.url + "/v1/generate", json=body()).status_code == 401
        assert httpx.post(served.url + "/v1/refit", json=offer()).status_code == 401
        assert httpx.get(served.url + "/v1/refit").status_code == 401
        assert httpx.get(served.url + "/healthz").status_code == 200
        assert served.generate(body())[-1] == {"done": 2}
        assert served.metric('http_requests_total{code="401",path="/v1/refit"}') == 2
        assert httpx.get(served.url + "/t/secret/nowhere").status_code == 404
        assert "secret" not in served.http.get("/metrics").text


def test_what_is_counted() -> None:
    with serving() as served:
        samples = served.generate(body(group(0, range(5)), group(1)))[:-1]
        stopped = sum(one["finish_reason"] == "stop" for one in samples)
        assert served.metric('samples_total{finish_reason="stop"}') == stopped
        assert served.metric('samples_total{finish_reason="length"}') == 7 - stopped
        assert served.metric("response_tokens_total") == sum(len(one["token_ids"]) for one in samples)
        assert served.metric("prompt_tokens_total") == 6, "a group's prompt counts once"
        assert served.metric("sample_seconds_count") == 7 and served.metric("ready") == 1
        assert served.metric("under_way") == 0 == served.metric("running")
        served.http.get("/not/there")
        assert served.metric('http_requests_total{code="404",path="other"}') == 1


def test_the_weights_come_with_the_first_refit() -> None:
    with serving(FakeServed(version=None)) as served:
        assert served.post("/v1/generate", body()).status_code == 503
        served.engine.refit_held.set()
        refit = in_background(lambda: served.post("/v1/refit", offer(0)))
        wait_until(lambda: served.service.changing)
        waiting = in_background(lambda: served.generate(body(version=0)))
        wait_until(lambda: served.service.under_way == 2)
        assert served.post("/v1/generate", body(group(samples=range(20_000)))).status_code == 422
        served.engine.refit_held.clear()
        assert refit().status_code == 200 and waiting()[-1] == {"done": 2}


def test_limits_name_what_does_not_fit() -> None:
    params = SamplingParams(1.0, 1.0, 4000, (), 50, 0, 0)
    with pytest.raises(RequestError, match="4000"):
        LIMITS.check(Request((1,), 0, 0), params)
    LIMITS.check(Request((1,), 0, 0, 5), params)
