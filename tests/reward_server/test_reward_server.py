"""The server over HTTP: the contract, and everything a client can send wrong."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest
from reward_helpers import ROOT, RUN, item, serving, spawn, wait_until

from benchmarks.reward_mix import hang
from conf.reward import PyTritonConfig, ServeRewardConfig
from crossthink.errors import ConfigError
from reward_server.serve import check
from reward_server.verdicts import rules_hash

JSON = {"content-type": "application/json"}


def post(url, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(url + "/v1/score", content=content, headers={**JSON, **headers}, timeout=60)


def score(url, *items, **headers):
    return post(url, {"items": [one.to_json() for one in items]}, **headers)


def test_the_contract(server):
    reply = score(server, item(ident="x"), item(answer=r"\sqrt{25}", ident="y"), item(answer="6", ident="z"))
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == {"rules_hash", "items"} and body["rules_hash"] == rules_hash("equivalent")
    assert [one["id"] for one in body["items"]] == ["x", "y", "z"]
    assert [one["status"] for one in body["items"]] == ["correct", "correct", "wrong"]
    assert set(body["items"][0]) == {"id", "reward", "accuracy", "format", "extracted", "status", "elapsed_ms"}
    assert body["items"][1] | {"elapsed_ms": 0} == {
        "id": "y",
        "reward": 1.0,
        "accuracy": 1,
        "format": 1,
        "extracted": r"\sqrt{25}",
        "status": "correct",
        "elapsed_ms": 0,
    }


def test_healthz(server):
    body = httpx.get(server + "/healthz").json()
    assert body["status"] == "ok" and body["match"] == "equivalent" and body["workers"] == 2
    assert body["rules_hash"] == rules_hash("equivalent") and body["version"]


def test_order_and_count_are_kept(server):
    items = [item(answer=str(n % 7), gold="3", ident=f"{n}") for n in range(50)]
    items[10] = item(answer=r"x+x", gold="2x", ident="10")
    body = score(server, *items).json()["items"]
    assert [one["id"] for one in body] == [one.id for one in items]
    assert [one["reward"] for one in body] == [float(n % 7 == 3 or n == 10) for n in range(50)]
    assert score(server).json()["items"] == []


GOOD = item().to_json()


@pytest.mark.parametrize(
    ("body", "status", "parts"),
    [
        (b"{", 422, ["body", "JSON"]),
        (b"", 422, ["body"]),
        (b"\xff\xfe\x00", 422, ["body"]),
        (b"[" * 100_000, 422, ["body"]),
        ([], 422, ["items"]),
        ({"items": 5}, 422, ["items"]),
        ({"items": [GOOD, 5]}, 422, ["items[1]: is 5", "JSON object"]),
        ({"items": [GOOD, {**GOOD, "kind": "x"}]}, 422, ["items[1].kind", "mcq, open, math"]),
        (
            {"items": [{k: v for k, v in GOOD.items() if k != "ground_truth"}]},
            422,
            ["items[0].ground_truth", "missing"],
        ),
        ({"items": [{**GOOD, "response": 5}]}, 422, ["items[0].response", "5", "string"]),
        ({"items": [{**GOOD, "\ud800": 5}]}, 422, ["items[0]", "unknown"]),
        ({"items": [GOOD] * 51}, 413, ["items", "51", "max_items=50"]),
        (b" " * (33 << 20), 413, ["body", "max_body_mb=32"]),
    ],
    ids=range(13),
)
def test_what_is_refused_and_why(server, body, status, parts):
    reply = post(server, body)
    assert reply.status_code == status
    assert all(part in reply.json()["detail"] for part in parts)


def test_a_body_of_unknown_length_is_limited_too(server):
    def endless():
        for _ in range(40):
            yield b" " * (1 << 20)

    try:
        assert httpx.post(server + "/v1/score", content=endless(), timeout=60).status_code == 413
    except httpx.TransportError:  # the server stopped reading, which is its right
        assert httpx.get(server + "/healthz").status_code == 200


def test_bad_golds_are_null_not_zero(server):
    (one,) = score(server, item(gold="")).json()["items"]
    assert (one["reward"], one["accuracy"], one["status"]) == (None, None, "bad_gold")


def test_megabytes_and_odd_characters(server):
    responses = ["<think>" + "x" * 10_000_000 + r"</think>\boxed{5}", "<think>\x00</think>\\boxed{5}"]
    responses += ["<think>\ud800</think>\\boxed{5}", "<think></think>\\boxed{\ud800\x00}", "\x00", "\ud83d"]
    reply = score(server, *(item(response=text, ident=f"\ud800{n}") for n, text in enumerate(responses)))
    statuses = [one["status"] for one in reply.json()["items"]]
    assert statuses == ["correct"] * 3 + ["wrong", "no_box", "no_box"]
    assert reply.json()["items"][3]["extracted"] == "\ud800\x00"


def test_healthz_answers_during_a_long_batch():
    with serving(max_items=10_000) as (_, url):
        filler = "word " * 2000
        items = [
            item(response=f"<think>{filler}</think>\\boxed{{{n}}}", gold=str(n), ident=str(n)) for n in range(3000)
        ]
        body = json.dumps({"items": [one.to_json() for one in items]}).encode()
        replies, meanwhile = [], False
        with httpx.Client(timeout=30) as client:
            for _ in range(20):  # on a busy machine a batch may be over before anybody else gets to ask
                sender = threading.Thread(target=lambda: replies.append(post(url, body)))
                sender.start()
                while sender.is_alive() and not meanwhile:
                    meanwhile = client.get(url + "/healthz").json()["queue"] > 0
                sender.join()
                if meanwhile:
                    break
        assert meanwhile, "every batch was over before anybody else was answered"
        assert {one["status"] for one in replies[0].json()["items"]} == {"correct"}


def test_token():
    with serving(token="secret") as (_, url):
        assert score(url, item()).status_code == 401
        assert score(url, item(), authorization="Bearer wrong").status_code == 401
        assert score(url, item(), authorization="Bearer secret").status_code == 200
        assert httpx.get(url + "/healthz").status_code == 200


def test_exact_mode():
    with serving(match="exact") as (_, url):
        statuses = [one["status"] for one in score(url, item(), item(answer="5.0")).json()["items"]]
        assert statuses == ["correct", "wrong"]
        assert httpx.get(url + "/healthz").json()["rules_hash"] == rules_hash("exact")


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"host": "0.0.0.0"}, ["host=0.0.0.0", "token="]),
        ({"match": "fuzzy"}, ["match=fuzzy", "equivalent, exact"]),
        ({"workers": 0}, ["workers=0", "at least 1"]),
        ({"deadline_s": 0}, ["deadline_s=0"]),
        ({"drain_s": math.nan}, ["drain_s=nan", "finite"]),
        ({"port": 70000}, ["port=70000"]),
        ({"token": " "}, ["token="]),
        ({"host": "no.such.host.invalid", "token": "x"}, ["host=no.such.host.invalid"]),
    ],
)
def test_impossible_configurations(config, parts):
    process = spawn(**config)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2 and all(part in stderr for part in parts) and "Traceback" not in stderr


def test_half_of_nemo_aligners_endpoint_is_refused():
    with pytest.raises(ConfigError, match="pytriton.data= does nothing without pytriton.port="):
        check(ServeRewardConfig(pytriton=PyTritonConfig(data="rows.jsonl")))
    with pytest.raises(ConfigError, match="pytriton.data= is missing"):
        check(ServeRewardConfig(pytriton=PyTritonConfig(port=5555)))


def test_workers_that_do_not_start_are_told_in_a_sentence():
    early = "import reward_server.process as process; process.START_S = 0.001\n"
    words = [sys.executable, "-c", early + RUN, json.dumps({"port": 0})]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "not ready within 0.001 s" in ended.stderr and "Traceback" not in ended.stderr


def test_a_port_in_use_is_named(server):
    port = int(server.rsplit(":", 1)[1])
    process = spawn(port=port)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2 and f"Port {port} on 127.0.0.1 is in use" in stderr and "port=0" in stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly_even_under_load(number):
    with serving(workers=2, deadline_s=60, drain_s=1) as (process, url):
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) == 3, "two workers and the nursery"

        def send():
            with contextlib.suppress(httpx.TransportError):
                score(url, hang(0))

        sender = threading.Thread(target=send)
        sender.start()
        time.sleep(0.3)
        os.kill(process.pid, number)
        assert process.wait(30) == 0
        sender.join()
        wait_until(lambda: not any(worker.is_running() for worker in workers))


def test_port_file(tmp_path, monkeypatch):
    path = tmp_path / "port"
    monkeypatch.setenv("CROSSTHINK_PORT_FILE", str(path))
    with serving() as (_, url):
        assert path.read_text() == url.rsplit(":", 1)[1] + "\n"
