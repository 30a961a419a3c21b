"""How a job is cut into nodes and tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from submit_helpers import config, settled_config

from conf.cluster import SubmitConfig
from conf.nodes import NodesConfig
from crossthink.errors import ConfigError
from recipes.nodes import check_nodes, own_rollout_servers, with_servers
from slurm.parts import Component, Tasks, components, gpus_of, mounts, python_of, tasks
from slurm.time_limit import seconds_of

SERVERS = ("rollout.servers=2",)
NODES = ("nodes.rollout=2", "nodes.reward=1")


@pytest.fixture(scope="module")
def plain() -> SubmitConfig:
    """A config that nobody changes."""
    return config("/runs/a")


def test_all_on_the_actors_nodes() -> None:
    made = settled_config("/runs/a", "nodes.actor=2", "actor.data_parallel=2", "cluster.gres=gpu:4", *SERVERS)
    assert components(made) == [Component("actor", 2, 4, None, "gpu:4")]
    assert tasks(made) == [
        Tasks("reward", 0, 1, 1, overlap=True),
        Tasks("rollout", 0, 2, 2, overlap=True),
        Tasks("rank", 0, 2, 8, overlap=True),
    ]


def test_nodes_of_their_own() -> None:
    made = settled_config(
        "/runs/a", *NODES, "cluster.gres=gpu:4", "cluster.partition=gpu", "cluster.reward_partition=cpu"
    )
    assert made.rollout.servers == 8  # one on each GPU
    assert components(made) == [
        Component("actor", 1, 4, "gpu", "gpu:4"),
        Component("rollout", 2, 4, "gpu", "gpu:4"),
        Component("reward", 1, 1, "cpu", None),
    ]
    # Nothing shares a node with the ranks, which have it alone.
    assert tasks(made) == [
        Tasks("reward", 2, 1, 1),
        Tasks("rollout", 1, 2, 8),
        Tasks("rank", 0, 1, 4),
    ]


def test_a_reward_node_alone_is_the_second_component() -> None:
    made = settled_config("/runs/a", "nodes.reward=2", *SERVERS)
    assert [part.role for part in components(made)] == ["actor", "reward"]
    assert tasks(made) == [
        Tasks("reward", 1, 2, 2),
        Tasks("rollout", 0, 1, 2, overlap=True),
        Tasks("rank", 0, 1, 4, overlap=True),
    ]


def test_servers_of_others_are_no_tasks() -> None:
    made = settled_config("/runs/a", "reward.url=[http://r:1]", "rollout.url=[http://s:2]")
    assert tasks(made) == [Tasks("rank", 0, 1, 4, overlap=False)]


def test_the_critic_of_aligner_stands_beside_the_ranks() -> None:
    made = settled_config("/runs/a", "actor=aligner", "algorithm=ppo", "nodes.actor=2", "reward.url=[http://r:1]")
    assert tasks(made) == [Tasks("critic", 0, 2, 8, overlap=True), Tasks("rank", 0, 2, 8, overlap=True)]
    made = settled_config("/runs/a", "actor=megatron", "algorithm=ppo", "reward.url=[http://r:1]")
    assert [one.role for one in tasks(made)] == ["rank"]


def test_few_servers_take_as_many_nodes_as_they_are() -> None:
    made = settled_config("/runs/a", "nodes.actor=4", "rollout.servers=3")
    (rollout,) = [one for one in tasks(made) if one.role == "rollout"]
    assert (rollout.nodes, rollout.count, rollout.per_node) == (3, 3, 1)
    made = settled_config("/runs/a", "nodes.actor=2", "rollout.servers=3")
    (rollout,) = [one for one in tasks(made) if one.role == "rollout"]
    assert (rollout.nodes, rollout.count, rollout.per_node) == (2, 3, 2)


@settings(deadline=None)
@given(
    actor=st.integers(1, 9), rollout=st.integers(0, 9), reward=st.integers(0, 4), gpus=st.integers(1, 9), each=st.data()
)
def test_every_task_has_a_place(
    plain: SubmitConfig, actor: int, rollout: int, reward: int, gpus: int, each: st.DataObject
) -> None:
    per_node = each.draw(st.integers(1, gpus))
    servers = rollout * per_node if rollout else each.draw(st.integers(0, actor * gpus))
    nodes = NodesConfig(actor, rollout, reward, gpus)
    made = with_servers(replace(plain, nodes=nodes, rollout=replace(plain.rollout, servers=servers)))
    parts, found = components(made), tasks(made)
    assert [part.nodes for part in parts if part.role == "actor"] == [actor]
    for one in found:
        part = parts[one.component]
        assert 1 <= one.nodes <= part.nodes and one.count <= one.nodes * one.per_node
        # Those that have a component for themselves are as many on a node as it was asked for.
        assert one.overlap or one.per_node == part.tasks_per_node
    shared = [one for one in found if one.component == 0]
    assert all(one.overlap == (len(shared) > 1) for one in shared)
    assert found[-1].role == "rank" and found[-1].count == actor * gpus
    assert sum(one.count for one in found if one.role == "rollout") == servers


@pytest.mark.parametrize(
    "words, parts",
    [
        (("rollout.servers=3", "nodes.rollout=2"), ("rollout.servers=3", "a multiple of 2", "at most 8")),
        (("rollout.servers=10", "nodes.rollout=2"), ("rollout.servers=10", "at most 8", "4 GPUs a node")),
        (("rollout.url=[http://r:1]", "nodes.rollout=2"), ("nodes.rollout=2", "http://r:1", "Drop one")),
        (
            ("rollout=trtllm", "rollout.trtllm.tensor_parallel=3", "nodes.rollout=1"),
            ("rollout.trtllm.tensor_parallel=3", "nodes.gpus_per_node=4", "one node"),
        ),
        (
            ("rollout=trtllm", "rollout.trtllm.tensor_parallel=2", "nodes.rollout=1", "rollout.servers=3"),
            ("rollout.servers=3", "at most 2", "2 a server"),
        ),
    ],
)
def test_servers_that_do_not_spread(words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        with_servers(config("/runs/a", *words))
    assert all(part in str(refused.value) for part in parts), refused.value


def test_without_rollout_nodes_the_config_stays_as_it_is() -> None:
    made = config("/runs/a", "rollout.servers=3")
    assert with_servers(made) is made


@pytest.mark.parametrize(
    "words, world",
    [
        ((), 4),
        (("nodes.actor=3",), 12),
        (("nodes.actor=2", "actor.data_parallel=2"), 8),
        (("nodes.actor=4", "nodes.gpus_per_node=2", "actor.pipeline_parallel=4"), 8),
    ],
)
def test_ranks_of_a_layout(words: tuple[str, ...], world: int) -> None:
    assert check_nodes(config("/runs/a", *words)) == world


@pytest.mark.parametrize(
    "words, parts",
    [
        (("nodes.gpus_per_node=3",), ("nodes.gpus_per_node=3", "3 ranks", "actor.tensor_parallel=2", "do not fill")),
        (("actor.data_parallel=2",), ("4 ranks", "actor.data_parallel=2", "do not fill")),
        (("nodes.actor=1", "actor.pipeline_parallel=4"), ("4 ranks", "actor.pipeline_parallel=4")),
        (("nodes.actor=0",), ("nodes.actor=0", "at least 1")),
        (("nodes.reward=-1",), ("nodes.reward=-1", "at least 0")),
        (("nodes.rollout=-1",), ("nodes.rollout=-1", "at least 0")),
        (("nodes.gpus_per_node=0",), ("nodes.gpus_per_node=0", "at least 1")),
        (("actor.tensor_parallel=0",), ("actor.tensor_parallel=0", "at least 1")),
        (("actor.pipeline_parallel=-2",), ("actor.pipeline_parallel=-2", "at least 1")),
    ],
)
def test_layouts_that_do_not_fill_the_nodes(words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        check_nodes(config("/runs/a", *words))
    assert all(part in str(refused.value) for part in parts), refused.value


def test_containers_see_what_the_run_reads_and_writes_once_each(tmp_path: Path) -> None:
    made = config("/runs/a", "data=/pool", "eval.data=/pool", f"model={tmp_path}", "cluster.mounts=[/opt:/opt:ro]")
    made.rollout.weights_dir = "/shared/w"
    assert mounts(made, "/runs/a") == [
        "/runs/a:/runs/a",
        f"{tmp_path}:{tmp_path}",
        "/pool:/pool",
        "/shared/w:/shared/w",
        "/opt:/opt:ro",
    ]
    assert mounts(config("/runs/a"), "/runs/a") == ["/runs/a:/runs/a"]


@pytest.mark.parametrize(
    "gres, count",
    [
        (None, 0),
        ("gpu", 1),
        ("gpu:8", 8),
        ("gpu:h100", 1),
        ("gpu:h100:8", 8),
        ("tmp:4", 0),
        ("gpu:a:2,gpu:b:3,tmp:4", 5),
        ("gpu:0", 0),
    ],
)
def test_gpus_of_a_list_of_resources(gres: str | None, count: int) -> None:
    assert gpus_of(gres) == count


def test_own_rollout_servers() -> None:
    assert own_rollout_servers(config("/runs/a", "rollout.servers=3")) == 3
    assert own_rollout_servers(config("/runs/a", "rollout.url=[http://r:1]", "rollout.servers=3")) == 0
    assert own_rollout_servers(config("/runs/a")) == 0


def test_the_python_that_runs_the_tasks() -> None:
    cluster = config("/runs/a").cluster
    assert python_of(cluster, "/here/python") == "/here/python"
    cluster.style = "pyxis"
    assert python_of(cluster, "/here/python") == "python3"
    cluster.python = "/opt/python"
    assert python_of(cluster, "/here/python") == "/opt/python"


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("90", 5400),
        ("0", 0),
        ("1:30", 90),
        ("04:00:00", 14400),
        ("24:00:00", 86400),
        ("2-0", 172800),
        ("1-12", 129600),
        ("1-2:30", 95400),
        ("1-02:03:04", 93784),
        ("100:00:00", 360000),
    ],
)
def test_time_limits_as_sbatch_reads_them(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


COUNT = st.integers(0, 10**6)


@given(COUNT, COUNT, COUNT, COUNT)
def test_time_limits_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    assert seconds_of(f"{minutes}") == seconds_of(f"{minutes}:0") == 60 * minutes
    assert seconds_of(f"{hours}:{minutes}:{seconds}") == 3600 * hours + 60 * minutes + seconds
    rest = seconds_of(f"{hours}:{minutes}:{seconds}")
    assert seconds_of(f"{days}-{hours}:{minutes}:{seconds}") == 86400 * days + rest
    assert seconds_of(f"{days}-{hours}") == 86400 * days + 3600 * hours


@given(st.text(st.sampled_from("0123456789:-. +²٣d"), max_size=12) | st.text(max_size=8))
def test_whatever_else_is_refused_by_its_key(text: str) -> None:
    try:
        seconds = seconds_of(text)
    except ConfigError as error:
        assert f"cluster.time={text} is no time limit" in str(error)
    else:
        assert seconds >= 0 and set(text) <= set("0123456789:-")


@pytest.mark.parametrize(
    "text", ["", "4h", "-5", "1-", "1:2:3:4", "1-2:3:4:5", "1-2-3", "4:00:", "UNLIMITED", "1.5", "²", "٣:00"]
)
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time limit. Allowed"):
        seconds_of(text)
