"""How rank 0 of a job finds its servers, and which place, GPUs and address a task has."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from submit_helpers import attempt, end, settled_config

from conf.cluster import ClusterConfig
from crossthink.errors import EXIT_USAGE, ConfigError, UserError
from recipes.own_server import Address
from slurm import attempt as attempt_module
from slurm import places, task
from slurm.attempt import Attempt
from slurm.servers import PublishedServers
from slurm.task import address_of, main, own_gpus


@pytest.fixture
def now(tmp_path: Path) -> Attempt:
    return attempt(tmp_path, "7.0")


def test_addresses_are_waited_for(now: Attempt, tmp_path: Path) -> None:
    made = settled_config("/runs/a", "nodes.reward=2", "rollout.servers=1")
    servers = PublishedServers(now, 60.0)
    now.publish("reward_1", "http://n2:5")
    later = threading.Timer(0.3, now.publish, ("reward_0", "http://n1:5"))
    later.start()
    with servers.reward(made, tmp_path) as urls:
        assert urls == ["http://n1:5", "http://n2:5"]  # by number, whoever came first
    later.join()
    now.publish("rollout_0", "http://n3:5")
    with servers.rollout(made, tmp_path) as urls:
        assert urls == ["http://n3:5"]
    with servers.critic(made, 4) as critic:
        assert critic is None


def test_servers_of_others_are_not_waited_for(now: Attempt, tmp_path: Path) -> None:
    made = settled_config("/runs/a", "reward.url=[http://r:1]", "rollout.url=[http://s:1]")
    servers = PublishedServers(now, 0.0)
    with servers.reward(made, tmp_path) as reward, servers.rollout(made, tmp_path) as rollout:
        assert (reward, rollout) == (["http://r:1"], ["http://s:1"])
    with servers.rollout(settled_config("/runs/a"), tmp_path) as rollout:
        assert rollout == []  # the ranks generate


def test_the_critic_is_one(now: Attempt) -> None:
    made = settled_config("/runs/a", "actor=aligner", "algorithm=ppo")
    now.publish("critic_0", "http://127.0.0.1:5")
    (now.logs / "critic_0.log").write_text("RuntimeError: out of memory\n")
    with PublishedServers(now, 60.0).critic(made, 4) as critic:
        assert critic is not None and critic.url == "http://127.0.0.1:5"
        assert "logs/7.0/critic_0.log:\nRuntimeError: out of memory" in critic.last_words()


def test_a_server_that_ended_is_not_waited_for(now: Attempt, tmp_path: Path) -> None:
    made = settled_config("/runs/a", "nodes.reward=2")
    now.publish("reward_0", "http://n1:5")
    now.ended(end("reward_1", 2, said="workers=0 is too small"))
    with (
        pytest.raises(UserError, match="reward_1 on node-reward_1 did not start: workers=0 is too small"),
        PublishedServers(now, 60.0).reward(made, tmp_path),
    ):
        raise AssertionError
    other = attempt(tmp_path, "7.1")
    (other.folder / "ends" / "reward.code").write_text("137\n")
    with (
        pytest.raises(UserError, match="The srun of reward ended with code 137 before reward_0 answered"),
        PublishedServers(other, 60.0).reward(made, tmp_path),
    ):
        raise AssertionError


def test_servers_that_take_too_long(now: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module.time, "sleep", lambda seconds: None)
    with (
        pytest.raises(UserError, match=r"reward_0 \(2 of 2\) was not ready within 0\.2 s \(cluster.ready_s\)"),
        PublishedServers(now, 0.2).reward(settled_config("/runs/a", "nodes.reward=2"), tmp_path),
    ):
        raise AssertionError


@pytest.mark.parametrize(
    "listed, place, count, mine",
    [("0,1,2,3", 0, 1, "0"), ("0,1,2,3", 3, 1, "3"), ("4,5,6,7", 1, 2, "6,7"), ("GPU-a,GPU-b", 0, 2, "GPU-a,GPU-b")],
)
def test_gpus_of_a_rollout_server(listed: str, place: int, count: int, mine: str) -> None:
    assert own_gpus({"CUDA_VISIBLE_DEVICES": listed}, place, count) == {"CUDA_VISIBLE_DEVICES": mine}


def test_nodes_with_too_few_gpus_or_none() -> None:
    assert own_gpus({}, 3, 2) == {}
    for listed in ("0,1,2", ""):
        with pytest.raises(ConfigError, match="Task 1 .* needs 2 GPUs from the 3. on.*rollout.servers"):
            own_gpus({"CUDA_VISIBLE_DEVICES": listed}, 1, 2)


@pytest.mark.parametrize("text, most", [("4", 4), ("4(x2)", 4), ("2(x3),1", 2), ("1,3(x10),2", 3)])
def test_tasks_of_a_node(text: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", text)
    assert places.tasks_here() == most


def test_the_threads_of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2)")
    monkeypatch.setattr(places, "threads_each", {4: 16}.__getitem__)
    cluster = ClusterConfig(name="test")
    assert places.threads(cluster) == 16
    cluster.cpus_per_task = 7
    assert places.threads(cluster) == 7


def test_the_address_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ClusterConfig(name="test")
    monkeypatch.setattr(socket, "gethostbyname", lambda name: {socket.gethostname(): "10.0.0.5"}[name])
    assert address_of(cluster) == "10.0.0.5"

    def unknown(name: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    with pytest.raises(ConfigError, match="has no address .*Set cluster.interface"):
        address_of(cluster)
    found = {
        "ib0": [
            SimpleNamespace(family=socket.AF_INET6, address="fe80::1"),
            SimpleNamespace(family=socket.AF_INET, address="10.1.0.5"),
        ],
        "eth0": [SimpleNamespace(family=socket.AF_INET6, address="fe80::2")],
    }
    monkeypatch.setattr(task.psutil, "net_if_addrs", lambda: found)
    cluster.interface = "ib0"
    assert address_of(cluster) == "10.1.0.5"
    for name in ("eth0", "ib9"):
        cluster.interface = name
        with pytest.raises(ConfigError, match=f"cluster.interface={name} has no IPv4 address.*eth0, ib0"):
            address_of(cluster)


def test_what_an_own_server_is_told(tmp_path: Path) -> None:
    assert Address().words() == ["host=127.0.0.1"] and Address().headers() == {}
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    address = Address("10.0.0.5", token)
    assert address.words() == ["host=10.0.0.5", f"token=@{token}"]
    assert address.headers() == {"Authorization": "Bearer s3cret"}


def test_what_a_task_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["rank"], ["actor", "run"], ["rank", "run", "more"]):
        assert main(words) == EXIT_USAGE
        assert "reward|rollout|critic|rank" in capsys.readouterr().err
