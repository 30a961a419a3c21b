"""The reward server that a run starts for itself: it comes back when it dies, and says why when it cannot."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path

import httpx
import psutil
import pytest
from process_helpers import descendants
from train_helpers import LIMIT_S, TinyWorld, dump, metrics, started, succeed

from conf.reward import RewardConfig, ShapingConfig
from crossthink.errors import UserError
from recipes import own_server
from recipes.launch import reward_client, reward_servers, rules_facts
from recipes.own_server import OwnRewardServer
from recipes.reporting.facts import facts as report_facts
from recipes.reporting.run_data import read_run
from reward_server.client import RewardRefused
from reward_server.verdicts import Item

ITEMS = [Item(str(n), "math", rf"<think></think>\boxed{{{n}}}", (str(n),), source="a") for n in range(300)]


def kill(server: OwnRewardServer) -> int:
    """Kill the process that serves now. Returns its id."""
    pid = server._process.pid
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_for_another(server: OwnRewardServer, pid: int) -> None:
    end = time.monotonic() + 60
    while server._process.pid == pid or not server._port_file.is_file():
        assert time.monotonic() < end, "it was not started again"
        time.sleep(0.02)


def test_it_comes_back_on_the_same_port_and_ends_with_the_block(tmp_path: Path) -> None:
    config = RewardConfig(match="exact")
    with OwnRewardServer(config, tmp_path / "log") as server, reward_client(config, [server.url]) as client:
        url = server.url
        pid = kill(server)
        assert {verdict.status for verdict in client.score(ITEMS)} == {"correct"}
        wait_for_another(server, pid)
        assert (server.url, client.rules_info()["match"]) == (url, "exact")
        last = server._process
    assert last.poll() is not None and not psutil.pid_exists(last.pid)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url + "/healthz", trust_env=False)
    assert (tmp_path / "log").read_text().count("reward server on") == 2


def test_a_server_that_serves_between_its_deaths_is_started_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_server, "MOST_RESTARTS", 1)
    config = RewardConfig()
    with OwnRewardServer(config, tmp_path / "log") as server, reward_client(config, [server.url]) as client:
        for _ in range(2):
            client.score(ITEMS[:1])
            while not server._has_served():
                time.sleep(0.02)
            time.sleep(2 * own_server.LOOK_S + 1)  # its keeper has had the time to see that, too
            wait_for_another(server, kill(server))
        assert len(client.score(ITEMS)) == len(ITEMS)


def test_after_restarts_in_vain_whoever_asks_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own_server, "MOST_RESTARTS", 2)
    config = RewardConfig()
    log = tmp_path / "log"
    with OwnRewardServer(config, log) as server, reward_client(config, [server.url]) as client:
        for _ in range(2):
            wait_for_another(server, kill(server))
        kill(server)
        with log.open("a") as handle:
            handle.write("the last words\n")
        with pytest.raises(RewardRefused) as refused:
            client.score(ITEMS)
        with pytest.raises(RewardRefused, match="410"):
            client.rules()
    for part in ("after 2 restarts in a row", "code -9", str(log), "the last words"):
        assert part in str(refused.value)
    err = capfd.readouterr().err
    assert err.count("is started again") == 2 and "the last words" in err


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="workers=0 is too small"),
        reward_servers(RewardConfig(workers=0), tmp_path / "l"),
    ):
        raise AssertionError


SHAPING = ShapingConfig(
    format_credit=0.1,
    length_penalty=1e-7,
    length_free=10,
    length_limit=20,
    source_weights={"a": 0.5, "my-source/x": 2.0, "with blank: (and), more=": 0.25, "b\\c": 0.0},
)


def test_it_shapes_as_the_run_says(tmp_path: Path) -> None:
    config = RewardConfig(shaping=SHAPING)
    with reward_servers(config, tmp_path / "log") as urls, reward_client(config, urls) as client:
        facts = rules_facts(client.rules_info())
        assert (facts["match"], facts["shaping"]) == ("equivalent", asdict(SHAPING))
        (verdict,) = client.score(
            [Item("1", "mcq", r"<think></think>\boxed{A}", ("A",), source="a", response_tokens=3)]
        )
        assert verdict.reward == 0.5


def test_what_a_run_writes_down() -> None:
    told = {"rules_hash": "h", "match": "exact", "shaping": asdict(ShapingConfig())}
    assert rules_facts(told) == rules_facts({**told, "shaping": {}}) == {"rules_hash": "h", "match": "exact"}
    assert rules_facts({"rules_hash": "h", "match": None, "shaping": None}) == {"rules_hash": "h"}


def test_given_servers_are_left_alone(tmp_path: Path) -> None:
    with reward_servers(RewardConfig(url=["http://a:1"]), tmp_path / "log") as urls:
        assert urls == ["http://a:1"]
    assert not (tmp_path / "log").exists()


def test_a_shaped_run_survives_the_death_of_its_server(tiny_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "run"
    values = {"format_credit": 0.25, "length_penalty": 0.5, "length_free": 5, "length_limit": 25}
    shaping = [f"shaping.{key}={value}" for key, value in values.items()]
    with started(*tiny_world.train_words(out, "steps=6", *(f"reward.{word}" for word in shaping))) as trainer:
        while not metrics(out):
            assert trainer.poll() is None, trainer.stderr.read()[-2000:]
            time.sleep(0.05)
        servers = descendants(trainer, "serve-reward")
        servers[0].kill()
        _, err = trainer.communicate(timeout=LIMIT_S)
    assert trainer.returncode == 0, err[-2000:]
    assert len(servers) == 1 and "is started again" in err
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4, 5, 6]
    facts = json.loads((out / "manifest.json").read_text())["facts"]
    assert facts["match"] == "equivalent" and facts["shaping"] == {**values, "source_weights": {}}
    shown = dict(report_facts(read_run(out)))
    assert shown["Reward match mode"].startswith("equivalent") and "format_credit 0.25" in shown["Reward shaping"]
    for step in range(1, 7):
        for line in dump(out, step):
            verdict, tokens = line["verdict"], len(line["token_ids"])
            earned = {"correct": 1.0, "wrong": 0.25}.get(verdict["status"], 0.0)
            assert verdict["reward"] == pytest.approx(earned - 0.5 * min(1, max(0, (tokens - 5) / 20)))
    done = succeed("rescore", f"run={out}", *shaping)
    assert "384 samples of 6 steps, 0 changed." in done.stdout
