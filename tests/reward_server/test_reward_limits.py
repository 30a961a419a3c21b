"""What the server refuses, outlives and counts: full queues, repetitions, slow and broken clients, its own end."""

import contextlib
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from reward_helpers import item, serving, wait_until

from benchmarks.reward_mix import hang
from reward_server import guard


def body(*items, **fields):
    return {"items": [one.to_json() for one in items], **fields}


def post(url, payload, path="/v1/score", **headers):
    return httpx.post(url + path, content=json.dumps(payload).encode(), headers=headers, timeout=60)


def queue(url):
    return httpx.get(url + "/healthz").json()["queue"]


def metrics(url):
    """{(name, labels): value} of /metrics."""
    families = text_string_to_metric_families(httpx.get(url + "/metrics").text)
    return {
        (sample.name.removeprefix("crossthink_reward_"), *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def verdicts_counted(url):
    return sum(value for (name, *_), value in metrics(url).items() if name == "verdicts_total")


def test_a_full_queue_is_429_with_retry_after_and_nothing_is_lost():
    with serving(workers=1, deadline_s=3, max_queue=4) as (_, url), ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, url, body(*(hang(n) for n in range(3))))
        wait_until(lambda: queue(url) == 3)
        refused = post(url, body(item(), item(ident="b")))
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert "max_queue=4" in refused.json()["detail"]
        assert post(url, body(item())).status_code == 200, "one still fits"
        assert [one["status"] for one in first.result().json()["items"]] == ["timeout"] * 3
        assert queue(url) == 0 and post(url, body(*[item()] * 9)).status_code == 200, "an empty queue takes every batch"
        assert metrics(url)[("requests_total", "429", "v1")] == 1


def test_a_repeated_request_is_not_judged_or_counted_again():
    with serving(workers=1, deadline_s=2) as (_, url), ThreadPoolExecutor(4) as pool:
        payload = body(hang(0), item(ident="b"), request_id="one")
        both = [pool.submit(post, url, payload) for _ in range(2)]
        replies = [one.result().json() for one in both] + [post(url, payload).json()]
        assert replies[0] == replies[1] == replies[2]
        assert verdicts_counted(url) == 2
        other = post(url, body(item(answer="6"), request_id="one"))
        assert other.status_code == 422 and "request_id" in other.json()["detail"]
        assert post(url, body(item(), request_id="two")).status_code == 200 and verdicts_counted(url) == 3


def test_a_client_that_goes_away_frees_its_place_and_is_not_counted():
    with serving(workers=1, deadline_s=60) as (_, url):
        payload = json.dumps(body(hang(0))).encode()
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
            client.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
            wait_until(lambda: queue(url) == 1 and metrics(url)[("workers",)] >= 1)
        wait_until(lambda: queue(url) == 0)
        assert verdicts_counted(url) == 0 and metrics(url)[("requests_total", "499", "v1")] == 1
        assert post(url, body(item(answer=r"\frac{\pi}{3}", gold=r"\pi/3"))).json()["items"][0]["status"] == "correct"


def test_metrics_by_status_and_format(server):
    before = metrics(server)
    batch = [item(), item(answer="6"), item(response="5"), item(gold=""), item("open", "a", "a")]
    post(server, body(*batch))
    after = metrics(server)

    def more(*key):
        name, *labels = key
        return after.get((name, *sorted(labels)), 0) - before.get((name, *sorted(labels)), 0)

    assert more("verdicts_total", "1", "correct", "math", "v1") == 1
    assert more("verdicts_total", "1", "wrong", "math", "v1") == 1
    assert more("verdicts_total", "0", "math", "no_box", "v1") == 1
    assert more("verdicts_total", "1", "bad_gold", "math", "v1") == 1
    assert more("verdicts_total", "1", "correct", "open", "v1") == 1
    assert more("item_seconds_count", "math") == 4 and more("request_seconds_count", "v1") == 1
    assert after[("queue_items",)] == 0


def test_shaping_is_the_servers_and_part_of_its_rules(server):
    with serving(shaping={"format_credit": 0.1, "source_weights": {"math": 2.0}}) as (_, url):
        wrong, right = item(answer="6", source="math"), item(source="else")
        reply = post(url, body(wrong, right)).json()
        assert [one["reward"] for one in reply["items"]] == [0.2, 1.0]
        assert [one["status"] for one in reply["items"]] == ["wrong", "correct"]
        assert reply["rules_hash"] != httpx.get(server + "/healthz").json()["rules_hash"]
        assert httpx.get(url + "/healthz").json()["shaping"]["format_credit"] == 0.1
        lacking = post(url, body(right, item()))
        assert lacking.status_code == 422 and "items[1].source" in lacking.json()["detail"]


def test_the_token_in_the_path_or_the_header():
    with serving(token="s3cret") as (_, url):
        assert post(url, body(item()), "/t/s3cret/v1/score").status_code == 200
        assert post(url, body(item()), "/t/wrong/v1/score").status_code == 401
        page = httpx.get(url + "/t/s3cret", follow_redirects=True)
        assert page.status_code == 200 and str(page.url).endswith("/t/s3cret/")
        assert '"/t/s3cret/openapi.json"' in httpx.get(url + "/t/s3cret/docs").text.replace("'", '"')
        assert "/v1/score" in httpx.get(url + "/t/s3cret/openapi.json").json()["paths"]
        assert post(url, body(item()), "/t//v1/score").status_code == 401
        assert httpx.get(url + "/metrics").status_code == 401 and httpx.get(url + "/openapi.json").status_code == 401
        assert httpx.get(url + "/metrics", headers={"authorization": "Bearer s3cret"}).status_code == 200
        assert httpx.get(url + "/readyz").status_code == 200 and httpx.get(url + "/healthz").status_code == 200


@pytest.mark.parametrize(
    ("payload", "status", "part"),
    [
        (body(item(response="x" * 5001)), 413, "items[0].response"),
        (body(*[item()] * 51), 413, "items: 51"),
        ({"items": [], "request_ids": 3}, 422, "request_ids"),
        ({"items": [], "request_id": 3}, 422, "request_id"),
        ({"items": [{**item().to_json(), "response_tokens": -1}]}, 422, "items[0].response_tokens"),
        ({"items": [{**item().to_json(), "source": 1}]}, 422, "items[0].source"),
    ],
)
def test_refusals_name_the_field(small_server, payload, status, part):
    reply = post(small_server, payload)
    assert reply.status_code == status and part in reply.json()["detail"]


@pytest.fixture(scope="module")
def small_server():
    with serving(max_items=50, max_response_chars=5000) as (_, url):
        yield url


def test_answers_built_to_hurt_are_judged_and_the_rest_of_the_batch_too(server):
    answers = ["{" * 10_000 + "}" * 10_000, r"\frac{" * 5000, "5^" * 3000 + "5", "9" * 50_000 + "!", r"\sqrt" * 4000]
    answers += [
        "(" * 9999,
        r"\text{" * 3000 + "a" + "}" * 3000,
        "a " * 50_000,
        "$" * 99_999,
        "\\" * 99_999,
        "1," * 40_000,
    ]
    batch = [item(kind, answer, "5", f"{kind} {n}") for kind in ("math", "open") for n, answer in enumerate(answers)]
    batch += [item("mcq", answer, "A", f"mcq {n}", options={"A": "x", "B": "y"}) for n, answer in enumerate(answers)]
    reply = post(server, body(*batch, item(ident="good"))).json()["items"]
    assert [one["id"] for one in reply] == [one.id for one in batch] + ["good"]
    assert {one["status"] for one in reply[:-1]} <= {"wrong", "no_box"} and reply[-1]["status"] == "correct"


def test_slow_and_half_closed_clients_do_not_keep_a_connection(server):
    port = int(server.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as loris, socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        half.shutdown(socket.SHUT_WR)
        half.settimeout(30)
        half.recv(1000)  # a reply or the end, not a wait
        loris.settimeout(guard.HEADERS_S + 30)
        loris.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        assert loris.recv(1000) == b"", "closed without a request"
    assert httpx.get(server + "/healthz").status_code == 200


def test_sigterm_answers_what_is_under_way_and_takes_no_more():
    with serving(workers=1, deadline_s=3) as (process, url), ThreadPoolExecutor(2) as pool:
        with httpx.Client(base_url=url) as kept:
            assert kept.get("/readyz").status_code == 200
            scoring = pool.submit(post, url, body(hang(0), item(ident="b")))
            wait_until(lambda: queue(url) == 2)
            os.kill(process.pid, signal.SIGTERM)
            reply = scoring.result()
        assert [one["status"] for one in reply.json()["items"]] == ["timeout", "correct"]
        assert process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            post(url, body(item()))


def test_logs_are_json_lines_and_silent_about_responses(tmp_path):
    secret = "nobody may read this"
    for show, config in ((False, {}), (True, {"log_responses": True})):
        with serving(**config) as (process, url):
            post(url, body(item("open", secret, "x"), request_id="r-1"))
            os.kill(process.pid, signal.SIGTERM)
            process.wait(30)
            lines = [json.loads(line) for line in process.log().splitlines()]
        (scored,) = [line for line in lines if line["event"] == "score"]
        assert (scored["protocol"], scored["items"], scored["code"], scored["request_id"]) == ("v1", 1, 200, "r-1")
        assert (secret in json.dumps(lines)) == show


def test_workers_killed_under_load_cost_nothing():
    batch = [item(answer=f"{n}e^x+e^x", gold=f"{n + 1}e^x", ident=str(n)) for n in range(60)]
    with serving(workers=2) as (process, url), ThreadPoolExecutor(1) as pool:
        scoring = pool.submit(post, url, body(*batch))
        for _ in range(5):
            time.sleep(0.05)
            for worker in psutil.Process(process.pid).children()[0].children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
        reply = scoring.result().json()["items"]
    assert [one["id"] for one in reply] == [one.id for one in batch]
    assert {one["status"] for one in reply} == {"correct"}


def test_many_connections_at_once(server):
    with ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(lambda n: post(server, body(item(ident=str(n)))).json(), range(40)))
    assert [reply["items"][0]["id"] for reply in replies] == [str(n) for n in range(40)]
