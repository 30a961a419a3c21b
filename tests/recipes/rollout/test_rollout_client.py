"""The rollout client against servers that die, hang, lie and are full: every sample once, as drawn, or an error."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest
from client_helpers import GARBAGE, FakeServer, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import EXIT_RESUMABLE, ConfigError, UserError
from crossthink.procs import free_port
from recipes.rollout.client import servers as servers_module
from recipes.rollout.client import wire
from recipes.rollout.client.answers import BadAnswer, lines
from recipes.rollout.client.client import RolloutClient
from recipes.rollout.client.servers import NoServersError
from recipes.rollout.interface import LostWeightsError, Request, RequestError, Response, SamplingParams

PARAMS = SamplingParams(temperature=1.0, top_p=0.9, max_tokens=12, stop_ids=(0, 3), vocabulary=50, seed=3, step=5)
VERSION = 7
LIMIT_S = 30.0

pytestmark = pytest.mark.timeout(60)


def wanted(groups=24, samples=4):
    """Requests of unlike budgets, some with budgets of their own."""
    return [
        Request(tuple(range(1, 4 + prompt % 5)), 100 + prompt, sample, (prompt % 9) + 1 if prompt % 3 == 0 else None)
        for prompt in range(groups)
        for sample in range(samples)
    ]


def due(requests, version=VERSION, params=PARAMS):
    """What honest servers draw."""
    body = {"sampling": {"seed": params.seed, "step": params.step, "vocabulary": 50, "stop_ids": list(params.stop_ids)}}
    found = {}
    for index, request in enumerate(requests):
        line = tokens(body, request.prompt, request.sample, request.budget(params))
        found[index] = Response(line["token_ids"], line["log_probs"], line["finish_reason"], version)
    return found


def collect(stream):
    """Everything of a stream, each index once."""
    found = {}
    for index, response in stream:
        assert index not in found
        found[index] = response
    return found


def client_of(*servers, **changes):
    urls = [one if isinstance(one, str) else one.url for one in servers]
    return RolloutClient(urls, **{"deadline_s": LIMIT_S, "outage_limit_s": LIMIT_S, **changes})


def until(condition):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def processes():
    """Three server processes, by number; dead ones are replaced by `fleet`."""
    started = [FakeServer() for _ in range(3)]
    yield started
    for server in started:
        server.stop()


@pytest.fixture
def fleet(processes, monkeypatch):
    """Three honest servers."""
    monkeypatch.setattr(servers_module, "FIRST_REST_S", 0.02)
    for number, server in enumerate(processes):
        if server.dead():
            server.stop()
            processes[number] = FakeServer()
        processes[number].script()
    return processes


def test_one_server_or_three_give_the_same_samples(fleet, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # not for servers
    monkeypatch.setenv("NO_PROXY", "")
    requests = wanted()
    with client_of(fleet[0], token="secret") as client:
        assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert {headers["Authorization"] for headers in fleet[0].seen()["headers"]} == {"Bearer secret"}
    [body] = fleet[0].seen()["bodies"]
    assert body["version"] == VERSION and body["sampling"] == {
        "temperature": 1.0,
        "top_p": 0.9,
        "max_tokens": 12,
        "stop_ids": [0, 3],
        "vocabulary": 50,
        "seed": 3,
        "step": 5,
    }
    assert body["groups"][0] == {"prompt": 100, "prompt_ids": [1, 2, 3], "samples": [0, 1, 2, 3], "max_tokens": [1] * 4}
    assert body["groups"][1] == {"prompt": 101, "prompt_ids": [1, 2, 3, 4], "samples": [0, 1, 2, 3]}

    fleet[0].script()
    client = client_of(*fleet)
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    groups = [group for server in fleet for group in server.groups()]
    assert sorted(group["prompt"] for group in groups) == list(range(100, 124))  # none in two places
    assert all(len(server.groups()) >= 5 for server in fleet)
    assert client.stats() == {"redealt": 0, "failures": 0, "servers_down": 0, "waited_s": pytest.approx(0, abs=LIMIT_S)}


def test_any_weights_will_do_where_no_version_is_wanted(fleet):
    fleet[0].script(version=3)
    requests = wanted(4)
    assert collect(client_of(fleet[0]).stream(requests, PARAMS, None)) == due(requests, 3)
    assert "version" not in fleet[0].seen()["bodies"][0]


def test_a_server_killed_midway_costs_nothing_but_its_unfinished_samples(fleet, capfd):
    requests = wanted()
    fleet[0].script(answer="die", after=5)
    client = client_of(*fleet)
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert fleet[0].dead()
    asked = [(group["prompt"], one) for server in fleet[1:] for group in server.groups() for one in group["samples"]]
    assert len(set(asked)) == len(asked) and len(requests) - 5 <= len(asked) <= len(requests)
    stats = client.stats()
    assert (stats["failures"], stats["servers_down"]) == (1, 1) and 0 < stats["redealt"] < 60
    said = capfd.readouterr().err
    assert said.count(fleet[0].url) == 1 and f"its {stats['redealt']} samples are asked elsewhere" in said
    # The next call does without it from the start.
    assert collect(client.stream(requests[:8], PARAMS, VERSION)) == due(requests[:8])
    assert client.stats()["failures"] == 1


def test_a_server_that_comes_back_is_used_in_the_same_call(fleet, processes, capfd):
    requests = wanted()
    fleet[0].script(answer="die", after=2)
    fleet[1].script(answer="hold")
    stream = client_of(fleet[0], fleet[1]).stream(requests, PARAMS, VERSION)
    found = dict([next(stream)])
    dead = fleet[0]
    until(dead.dead)
    dead.stop()
    again = processes[0] = FakeServer(dead.port)
    while len(found) < 10:  # more than the dead one gave, and the other gives none
        index, response = next(stream)
        assert index not in found
        found[index] = response
    assert again.groups()
    fleet[1].release()
    assert {**found, **collect(stream)} == due(requests)
    assert f"{again.url} is back" in capfd.readouterr().err


def test_a_slow_server_gets_its_first_share_and_no_more(fleet):
    requests = [replace(one, prompt_ids=(1, 2, 3), max_tokens=None) for one in wanted()]
    fleet[1].script(answer="hold")
    stream = client_of(fleet[0], fleet[1]).stream(requests, PARAMS, VERSION)
    found = dict(next(stream) for _ in range(4 * 15))
    assert (len(fleet[0].groups()), len(fleet[1].groups())) == (15, 9)
    fleet[1].release()
    assert {**found, **collect(stream)} == due(requests)


def test_a_server_that_says_nothing_is_given_up_after_the_deadline(fleet, capfd):
    requests = wanted(8)
    fleet[1].script(answer="hang", after=1)
    client = client_of(fleet[0], fleet[1], deadline_s=2.0)
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert client.stats()["failures"] >= 1
    assert "has sent nothing for 2 s" in capfd.readouterr().err
    # `alive` lines are something: a server that sends them is waited for.
    fleet[1].script(answer="hold")
    client = client_of(fleet[1], deadline_s=2.0)
    timer = threading.Timer(2.5, fleet[1].release)
    timer.start()
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert client.stats()["failures"] == 0
    timer.join()


@pytest.mark.parametrize("answer", ["break", "error", "short", *GARBAGE])
def test_a_server_that_lies_or_breaks_is_not_believed(fleet, capfd, answer):
    requests = [replace(one, max_tokens=None) for one in wanted(8)]
    fleet[1].script(answer=answer, after=3)
    client = client_of(fleet[0], fleet[1])
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert client.stats()["failures"] >= 1
    said = capfd.readouterr().err
    assert fleet[1].url in said and fleet[0].url not in said


def test_what_is_wrong_with_a_sample_is_said_with_its_numbers(fleet, capfd):
    requests = wanted(8)
    fleet[1].script(answer="stale")
    collect(client_of(fleet[0], fleet[1]).stream(requests, PARAMS, VERSION))
    assert "of prompt 10" in (said := capfd.readouterr().err)
    assert "weight_version: 6; asked for was 7" in said


@pytest.mark.parametrize("status", [500, 404, 307])
def test_a_server_that_cannot_serve_is_left_to_itself(fleet, status):
    requests = wanted(8)
    fleet[1].script(status=status, times=1000, headers={"Location": fleet[2].url})
    client = client_of(fleet[0], fleet[1])
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert client.stats()["failures"] >= 1 and not fleet[2].seen()["bodies"]


def test_one_that_breaks_whenever_it_is_used_is_not_tried_for_ever(fleet):
    fleet[0].script(answer="error")
    with pytest.raises(NoServersError, match="is left for this step .*the engine broke"):
        collect(client_of(fleet[0]).stream(wanted(4), PARAMS, VERSION))
    assert len(fleet[0].seen()["bodies"]) == servers_module.MOST_FAILURES


def test_no_server_at_all_ends_the_call_resumable():
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    client = client_of(*urls, outage_limit_s=0.5)
    with pytest.raises(NoServersError, match=r"has generated for 0\.5 s .*ConnectError") as error:
        collect(client.stream(wanted(4), PARAMS, VERSION))
    assert error.value.exit_code == EXIT_RESUMABLE and all(url in str(error.value) for url in urls)
    assert client.stats()["waited_s"] >= 0.5 and client.stats()["servers_down"] == 2


def test_the_last_server_dies(fleet):
    requests = wanted(8)
    fleet[0].script(answer="die", after=3)
    stream = client_of(fleet[0], outage_limit_s=0.5).stream(requests, PARAMS, VERSION)
    found = {}
    with pytest.raises(NoServersError):
        found.update(pair for pair in stream)
    assert fleet[0].dead()


@pytest.mark.parametrize(
    "status, kind", [(400, RequestError), (413, RequestError), (422, RequestError), (401, UserError)]
)
def test_what_every_server_would_refuse_is_raised_at_once(fleet, status, kind):
    fleet[0].script(status=status, times=1000)
    client = client_of(fleet[0])
    with pytest.raises(kind, match=f"{fleet[0].url} answered {status}: as the script says") as error:
        collect(client.stream(wanted(4), PARAMS, VERSION))
    assert ("rollout.token=" in str(error.value)) == (status == 401)
    assert client.stats()["failures"] == 0


@pytest.mark.parametrize("status, headers", [(429, {"Retry-After": "1"}), (503, {"Retry-After": "1"}), (503, {})])
def test_a_server_that_lets_us_wait_is_not_dead(fleet, capfd, status, headers):
    requests = wanted(8)
    fleet[0].script(status=status, headers=headers, times=2)
    client = client_of(fleet[0])
    began = time.monotonic()
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert time.monotonic() - began >= 1.0
    assert (client.stats()["failures"], client.stats()["redealt"]) == (0, 0) and client.stats()["waited_s"] >= 1.0
    assert capfd.readouterr().err.count("lets us wait") == 1


def test_a_server_that_takes_less_at_a_time_is_asked_for_less(fleet):
    requests = wanted()
    fleet[0].script(most=20)
    assert collect(client_of(fleet[0]).stream(requests, PARAMS, VERSION)) == due(requests)
    assert max(sum(len(group["samples"]) for group in body["groups"]) for body in fleet[0].seen()["bodies"]) <= 20


def test_one_that_lets_us_wait_for_ever_is_no_server(fleet):
    fleet[0].script(status=503, times=10**6)
    with pytest.raises(NoServersError, match="answered 503: as the script says"):
        collect(client_of(fleet[0], outage_limit_s=1.0).stream(wanted(4), PARAMS, VERSION))


def test_other_weights_are_not_used_in_this_call(fleet, monkeypatch, capfd):
    monkeypatch.setattr(wire, "BODY_SAMPLES", 4)
    requests = wanted(8)
    fleet[1].script(version=6)
    client = client_of(fleet[0], fleet[1])
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert fleet[1].seen()["sent"] == 0 and len(fleet[1].seen()["bodies"]) >= 2
    assert capfd.readouterr().err.count("it is left out of this step") == 1
    with pytest.raises(LostWeightsError, match="has weight version .* any more .*409: another version"):
        collect(client_of(fleet[1]).stream(requests, PARAMS, VERSION))
    fleet[1].script()
    assert collect(client.stream(requests, PARAMS, VERSION)) == due(requests)
    assert fleet[1].seen()["sent"] > 0  # the next call asks it again


def test_closing_early_drops_the_connections(fleet):
    fleet[0].script(answer="hold", after=2)
    client = client_of(fleet[0])
    stream = client.stream(wanted(8), PARAMS, VERSION)
    next(stream)
    with pytest.raises(RuntimeError, match="one call at a time"):
        next(client.stream(wanted(8), PARAMS, VERSION))
    stream.close()
    until(lambda: fleet[0].seen()["gone"] == 1)
    fleet[0].script()
    assert collect(client.stream(wanted(8), PARAMS, VERSION)) == due(wanted(8))
    assert not [thread for thread in threading.enumerate() if thread.name == "rollout-client"]


def test_closing_the_client_ends_a_call_of_another_thread(fleet):
    fleet[0].script(answer="hold", after=2)
    client = client_of(fleet[0])
    ended = []

    def read():
        try:
            for pair in client.stream(wanted(8), PARAMS, VERSION):
                ended.append(pair)
        except UserError as error:
            ended.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: len(ended) == 2)
    client.close()
    thread.join(LIMIT_S)
    assert ended[2:] == ["The rollout client was closed while samples were under way."]
    client.close()


@pytest.mark.parametrize("limit, most, of", [("BODY_IDS", 12, "prompt_ids"), ("BODY_SAMPLES", 9, "samples")])
def test_what_is_too_much_for_one_request_goes_in_several(fleet, monkeypatch, limit, most, of):
    monkeypatch.setattr(wire, limit, most)
    requests = wanted(8)
    assert collect(client_of(fleet[0]).stream(requests, PARAMS, VERSION)) == due(requests)
    sizes = [sum(len(group[of]) for group in body["groups"]) for body in fleet[0].seen()["bodies"]]
    assert max(sizes) <= most and len(sizes) >= 3


def test_wrong_arguments():
    for url in ("127.0.0.1:8001", "ftp://host", "http://", "http://host:x", "http://host:99999"):
        with pytest.raises(ConfigError, match="rollout.url"):
            client_of(url)
    with pytest.raises(ValueError, match="at least one"):
        client_of()
    client = client_of("http://127.0.0.1:9")
    assert list(client.stream([], PARAMS, VERSION)) == []
    for _ in range(2):  # the client is free again after an error
        with pytest.raises(ValueError, match="one sample number"):
            next(client.stream([Request((1,), 1, 1)] * 2, PARAMS, VERSION))


def gather(parts, limit):
    async def stream():
        for part in parts:
            yield part

    async def run():
        return [line async for line in lines(stream(), limit)]

    return asyncio.run(run())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_do_not_depend_on_how_they_arrive(sent, data):
    whole = b"".join(line + b"\n" for line in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert gather(parts, 20) == sent
    longest = max(map(len, sent), default=0)
    if longest:
        with pytest.raises(BadAnswer, match="a line of more than"):
            gather(parts, longest - 1)
    with pytest.raises(BadAnswer, match="in the middle of a line"):
        gather([*parts, b"x"], 20)
