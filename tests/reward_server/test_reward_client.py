"""The client: several servers, dead ones, restarts, and failures that never become zeros."""

import logging
import re
import threading

import httpx
import pytest
from fault_helpers import drip, drop, fake, half, honest, reply, verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_helpers import item, rows, serving, wait_until

from crossthink.errors import ConfigError
from crossthink.procs import free_port
from reward_server.balance import PARALLEL
from reward_server.client import RewardClient, RewardRefused, RewardUnavailable


def without_time(verdicts):
    return [{**verdict.to_json(), "elapsed_ms": 0} for verdict in verdicts]


def said(caplog, url, words):
    """How often the log said `words` of a server."""
    return sum(url in one.getMessage() and words in one.getMessage() for one in caplog.records)


ITEMS = [item(answer=str(n % 5), gold="3", ident=str(n)) for n in range(100)]
ITEMS += [item(answer=rf"\sqrt{{{n}}}", gold=rf"\frac{{{n}}}{{\sqrt{{{n}}}}}", ident=f"root {n}") for n in range(2, 12)]
ITEMS += [item(gold="", ident="bad"), item(response="\ud800\x00", ident="\ud800")]
PAIR = [item(ident="a"), item(ident="b")]


@pytest.fixture(scope="module")
def second():
    with serving() as (_, url):
        yield url


def test_one_and_two_servers_agree(server, second):
    with RewardClient([server], chunk=16) as one, RewardClient([server, second], chunk=7) as two:
        alone = one.score(ITEMS)
        assert [verdict.id for verdict in alone] == [one.id for one in ITEMS]
        assert without_time(alone) == without_time(two.score(ITEMS))
        assert one.rules() == two.rules()
        assert one.score([]) == []


def test_real_rows_over_http(server):
    golds = [row["answer"] for row in rows("math500")]
    items = [item(answer=gold, gold=gold, ident=str(n)) for n, gold in enumerate(golds)]
    with RewardClient([server], chunk=50) as client:
        assert {verdict.status for verdict in client.score(items)} == {"correct"}


def test_what_a_server_judges_by(server):
    with serving(match="exact") as (_, exact), RewardClient([exact]) as client:
        info = client.rules_info()
        assert info["match"] == "exact" and info["rules_hash"] == client.rules()
    with RewardClient([server]) as client:
        assert client.rules_info()["match"] == "equivalent"
    with fake([honest]) as seen, RewardClient([seen.url]) as client:  # a server that tells no more than it must
        assert client.rules_info() == {"rules_hash": "h", "match": None, "shaping": None}


# Servers that are gone


def test_one_of_two_servers_dead(server, caplog):
    dead = f"http://127.0.0.1:{free_port()}"
    with RewardClient([dead, server], chunk=10) as client:
        assert client.rules()
        for _ in range(3):
            assert {verdict.status for verdict in client.score(ITEMS[:50])} == {"correct", "wrong"}
    assert said(caplog, dead, "cannot be used") == 1 and not said(caplog, server, "")


@pytest.mark.parametrize("others", [0, 1])
def test_a_server_killed_and_restarted_during_scoring(others, second, caplog):
    port = free_port()
    items = [item(answer=f"{n}e^x+e^x", gold=f"{n + 1}e^x", ident=str(n)) for n in range(120)]
    url = f"http://127.0.0.1:{port}"
    with RewardClient([url, second][: 1 + others], chunk=4) as client:
        results = []
        scoring = threading.Thread(target=lambda: results.append(client.score(items)))
        with serving(port=port) as (process, _):
            assert client.rules()
            scoring.start()
            wait_until(lambda: client._balance.servers[0].items)
            process.kill()
            process.wait()
        with serving(port=port):
            scoring.join(200)
            assert [verdict.id for verdict in results[0]] == [one.id for one in items]
            assert {verdict.status for verdict in results[0]} == {"correct"}
            # It takes part again, whether or not it was needed for the rest of that call.
            wait_until(lambda: client.score(items) and client._balance.servers[0].failures == 0, 60)
    assert said(caplog, url, "cannot be used") == said(caplog, url, "is back") == 1


def test_a_server_that_comes_within_the_outage_limit():
    port = free_port()
    with RewardClient([f"http://127.0.0.1:{port}"], deadline_s=5, outage_limit_s=60) as client:
        results = []
        scoring = threading.Thread(target=lambda: results.append(client.score(ITEMS)))
        scoring.start()
        wait_until(lambda: client._balance.servers[0].failures > 2)
        with serving(port=port):
            scoring.join(200)
    assert len(results[0]) == len(ITEMS)


def test_all_servers_down():
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    with RewardClient(urls, deadline_s=30, outage_limit_s=1) as client:
        for ask in (lambda: client.score(ITEMS), client.rules):
            with pytest.raises(RewardUnavailable) as error:
                ask()
            for part in (*urls, "for 1 s", "ConnectError", "serve-reward", "reward.outage_limit_s"):
                assert part in str(error.value)


def test_a_start_may_be_less_patient_than_an_outage():
    with RewardClient([f"http://127.0.0.1:{free_port()}"]) as client, pytest.raises(RewardUnavailable, match="0.5 s"):
        client.rules_info(patience_s=0.5)


def test_time_between_calls_is_no_outage():
    with fake([honest]) as seen, RewardClient([seen.url], outage_limit_s=30) as client:
        assert client.score(PAIR)
        client._balance._answered_at -= 1000  # as if the trainer had trained for that long
        assert client.score(PAIR)


# Servers that refuse


def test_refusals_are_raised_at_once_with_the_servers_words(server):
    with RewardClient([server], chunk=1000) as client, pytest.raises(RewardRefused, match="max_items=50"):
        client.score(ITEMS)
    with serving(token="secret") as (_, url):
        with RewardClient([url]) as client, pytest.raises(RewardRefused, match="401"):
            client.score(ITEMS)
        with RewardClient([url], token="secret") as client:
            assert len(client.score(ITEMS)) == len(ITEMS)


def test_a_refusal_does_not_wait_for_a_server_that_hangs():
    release = threading.Event()
    with fake([lambda body: release.wait(60) and honest(body)]) as slow, fake([(422, {"detail": "no"})]) as seen:
        with RewardClient([slow.url, seen.url], chunk=1) as client, pytest.raises(RewardRefused, match="422: no"):
            client.score(PAIR)
        assert not release.is_set()
        release.set()


def test_servers_of_different_rules_are_refused(server):
    with serving(match="exact") as (_, exact):
        with RewardClient([server, exact], chunk=10) as client, pytest.raises(RewardRefused, match="rules"):
            client.score(ITEMS)
        with RewardClient([server, exact]) as client, pytest.raises(RewardRefused, match="rules"):
            client.rules()


def test_a_server_that_comes_back_with_other_rules():
    port = free_port()
    with RewardClient([f"http://127.0.0.1:{port}"]) as client:
        with serving(port=port):
            assert client.score(PAIR)
        with serving(port=port, match="exact"), pytest.raises(RewardRefused, match="and judged by rules"):
            client.score(PAIR)


@pytest.mark.parametrize(
    "answer",
    [
        reply("a"),
        reply("a", "a"),
        reply("a", "b", "b"),
        reply("a", "c"),
        (200, {"rules_hash": "h"}),
        (200, {"items": []}),
        (200, b"<html>"),
        (200, b"\xff"),
        (200, b"[" * 100_000),
        (200, [1]),
        (200, {"rules_hash": "h", "items": [{"id": "a"}, {"id": "b"}]}),
        (200, {"rules_hash": "h", "items": [verdict("a", reward=None), verdict("b")]}),
        (201, reply("a", "b")[1]),
        (307, b"elsewhere"),
        (404, b"not here"),
    ],
    ids=range(15),
)
def test_a_reply_that_is_not_the_verdicts_is_an_error(answer):
    with fake([answer]) as seen, RewardClient([seen.url]) as client:
        with pytest.raises(RewardRefused, match="127.0.0.1"):
            client.score(PAIR)
        assert len(seen.bodies) == 1


# Servers that fail


def test_a_request_keeps_its_id_over_its_tries():
    script = [drop, half, (500, b""), (408, b""), (503, b"starting"), (429, b""), reply("b", "a"), honest]
    with fake(script) as seen, RewardClient([seen.url]) as client:
        assert [verdict.id for verdict in client.score(PAIR)] == ["a", "b"]
        assert len(set(seen.ids)) == 1 and len(seen.ids) == 7
        client.score(PAIR)
        assert seen.ids[-1] != seen.ids[0]
        assert all(set(body) == {"request_id", "items"} for body in seen.bodies)


def test_a_repeated_request_counts_once():
    """The server has judged the request when the connection breaks: the verdicts are given from memory."""
    with serving() as (_, url), RewardClient([url]) as client:
        sent, exchange = [], client._exchange

        def break_once(*request):
            sent.append(exchange(*request))
            if len(sent) == 1:
                raise httpx.ReadError("broken on purpose")
            return sent[-1]

        client._exchange = break_once
        assert len(client.score(ITEMS[:20])) == 20
        first, again = (one.content for one in sent)
        assert first == again  # elapsed_ms, too: nothing was judged a second time
        page = httpx.get(url + "/metrics").text
        counts = re.findall(r"^crossthink_reward_verdicts_total\{.*\} (\S+)$", page, re.MULTILINE)
        assert sum(map(float, counts)) == 20


def test_always_failing():
    with fake([(503, {"detail": "full"})]) as seen, RewardClient([seen.url], outage_limit_s=1) as client:
        with pytest.raises(RewardUnavailable, match="503: full"):
            client.score(PAIR)
        assert 1 < len(seen.bodies) < 20  # with growing pauses


def test_busy_is_no_outage(caplog):
    full = (429, {"detail": "full"}, {"Retry-After": "1"})
    with fake([full, full, full, honest]) as seen, RewardClient([seen.url], outage_limit_s=0.5) as client:
        assert len(client.score(PAIR)) == 2
        assert all(later - earlier >= 1 for earlier, later in zip(seen.times, seen.times[1:], strict=False))
        assert said(caplog, seen.url, "busy") == 1 and len(caplog.records) == 1


def test_a_busy_server_is_left_alone_for_another():
    full = (429, b"", {"Retry-After": "60"})
    with fake([full]) as busy, fake([honest]) as free, RewardClient([busy.url, free.url], chunk=1) as client:
        for _ in range(3):
            client.score(ITEMS[:20])
        assert len(busy.bodies) <= PARALLEL and len(free.bodies) == 60


@pytest.mark.parametrize("silence", [drip, lambda body: threading.Event().wait(10)])
def test_a_server_that_does_not_answer_in_time(silence):
    with fake([silence]) as slow, fake([honest]) as good:
        with RewardClient([slow.url, good.url], deadline_s=0.3, chunk=1) as client:
            assert len(client.score(ITEMS[:10])) == 10
            assert client._balance.servers[0].failures in (0, 1)
        late = pytest.raises(RewardUnavailable, match="no whole answer within")
        with RewardClient([slow.url], deadline_s=0.3, outage_limit_s=1) as client, late:
            client.score(PAIR)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([drop, half, (500, b""), (502, b"<html>"), (503, b""), (429, b"")]), max_size=4))
def test_no_failure_becomes_a_verdict(faults):
    logging.getLogger("reward_server.balance").setLevel(logging.ERROR)
    with fake([*faults, honest]) as seen, fake([drop]) as dead, RewardClient([seen.url, dead.url], chunk=1) as client:
        assert [one.to_json() for one in client.score(PAIR)] == [verdict("a"), verdict("b")]


# Several servers


def test_the_least_busy_server_is_asked():
    """One server holds its requests back: all others go to the second one."""
    served = threading.Event()
    with fake([lambda body: served.wait(60) and honest(body)]) as slow, fake([honest]) as quick:
        with RewardClient([slow.url, quick.url], chunk=1) as client:
            results = []
            scoring = threading.Thread(target=lambda: results.append(client.score(ITEMS[:60])))
            scoring.start()
            wait_until(lambda: len(quick.bodies) == 60 - PARALLEL)
            assert len(slow.bodies) == PARALLEL
            served.set()
            scoring.join(30)
        assert len(results[0]) == 60 and max(slow.most, quick.most) <= PARALLEL


def test_addresses():
    for url in ("127.0.0.1:8900", "localhost", "ftp://a", "http://", "http://a:port", ""):
        with pytest.raises(ConfigError, match=r"reward\.url: "):
            RewardClient(["http://127.0.0.1:1", url])
    with pytest.raises(ValueError, match="at least one"):
        RewardClient([])
    assert RewardClient(["http://a/", "http://a"]).urls == ["http://a"]


def test_secrets_of_an_address_are_not_told():
    url = f"http://user:pass@127.0.0.1:{free_port()}/t/s3cret"
    with RewardClient([url], outage_limit_s=0.2) as client, pytest.raises(RewardUnavailable) as error:
        client.score(PAIR)
    assert "s3cret" not in str(error.value) and "pass@" not in str(error.value) and "127.0.0.1" in str(error.value)


def test_ids_must_be_unique(server):
    with RewardClient([server]) as client, pytest.raises(ValueError, match="unique"):
        client.score([item(), item()])
