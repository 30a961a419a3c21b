"""`cluster=FILE.yaml`: a user's own cluster, as text, with the command line on top."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf.cluster import ClusterConfig, SubmitConfig
from conf.compose import from_yaml, resolve, to_yaml
from conf.train import TrainConfig
from crossthink.errors import ConfigError


def cluster(path: Path, *words: str) -> ClusterConfig:
    return resolve("submit", SubmitConfig, ["recipe=tiny", "out=runs/a", f"cluster={path}", *words]).cluster


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my cluster=1.yaml"


def test_a_whole_file(file: Path) -> None:
    file.write_text(
        """
# Our cluster.
name: alps
account: a1
partition: gpu
time: 24:00:00
gres: gpu:4
cpus_per_task: 16
mem: 0
exclusive: no
hang_s: 1e3
shared: true
image: /images/a b=(1).sqsh
style: pyxis
constraint: h100&ib
options: [--comment=rl, "--mail-type=END,FAIL"]
exclude: []
mounts:
  - /scratch:/scratch
  - /opt/it's:/opt:ro
modules: [cuda/12.4]
setup:
  - ulimit -l unlimited
  - 'source "$HOME/x"; export A=${B:-c}'
env:
  NCCL_DEBUG: WARN
  GREETING: "it's $(me), ok?"
  EMPTY: ""
python: ~
"""
    )
    assert cluster(file) == ClusterConfig(
        name="alps",
        account="a1",
        partition="gpu",
        time="24:00:00",
        gres="gpu:4",
        cpus_per_task=16,
        mem="0",
        exclusive=False,
        hang_s=1000.0,
        shared=True,
        image="/images/a b=(1).sqsh",
        style="pyxis",
        constraint="h100&ib",
        options=["--comment=rl", "--mail-type=END,FAIL"],
        mounts=["/scratch:/scratch", "/opt/it's:/opt:ro"],
        modules=["cuda/12.4"],
        setup=["ulimit -l unlimited", 'source "$HOME/x"; export A=${B:-c}'],
        env={"NCCL_DEBUG": "WARN", "GREETING": "it's $(me), ok?", "EMPTY": ""},
    )


def test_its_own_name_stands_in_for_one(file: Path) -> None:
    file.write_text("partition: gpu\n")
    assert cluster(file) == ClusterConfig(name="my cluster=1", partition="gpu")
    other = file.with_suffix(".yml")
    other.write_text("partition: cpu\n")
    assert cluster(other).partition == "cpu"


def test_the_command_line_wins_wherever_it_stands(file: Path) -> None:
    file.write_text("partition: gpu\ntime: 24:00:00\nenv: {A: a, B: b}\noptions: [--x]\n")
    words = ("cluster.time=01:00:00", "cluster.env.B=c", "cluster.env.C=d", "cluster.options=['--y']")
    wanted = ClusterConfig(
        name="my cluster=1", partition="gpu", time="01:00:00", env={"A": "a", "B": "c", "C": "d"}, options=["--y"]
    )
    assert cluster(file, *words) == wanted
    before = resolve("submit", SubmitConfig, [*words, f"cluster={file}", "recipe=tiny", "out=runs/a"])
    assert before.cluster == wanted


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=30)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=TEXT, value=TEXT)
def test_any_text_arrives_as_it_is(file: Path, line: str, value: str) -> None:
    import yaml

    file.write_text(yaml.safe_dump({"setup": [line], "env": {"A": value}, "account": "a" + value}), "utf-8")
    found = cluster(file)
    assert (found.setup, found.env, found.account) == ([line], {"A": value}, "a" + value)
    assert from_yaml(ClusterConfig, to_yaml(found)) == found  # as `submit` writes it down for the tasks


@pytest.mark.parametrize(
    "text, parts",
    [
        ("partion: gpu\n", ("'partion' is not a key of a cluster", "Did you mean 'partition'?")),
        ("nodes: {actor: 2}\n", ("'nodes' is not a key of a cluster",)),
        ("partition: [gpu\n", ("is no YAML",)),
        ("- partition\n", ("must hold keys and values",)),
        ("", ("must hold keys and values",)),
        ("gpu\n", ("must hold keys and values",)),
        ("partition: {a: b}\n", ("partition holds keys of its own",)),
        ("mounts:\n  - /a: /b\n", ("mounts holds {'/a': '/b'}", "quote the text")),
        ("modules: [[a]]\n", ("modules holds ['a']",)),
        ("env: {A: [b]}\n", ("env holds ['b']",)),
        ("cpus_per_task: many\n", ("cluster.cpus_per_task", "many")),
        ("exclusive: perhaps\n", ("cluster.exclusive", "perhaps")),
        ("retries: 1.5\n", ("cluster.retries", "1.5")),
        ("partition: [a, b]\n", ("cluster.partition",)),
        ("modules: cuda\n", ("cluster.modules",)),
    ],
)
def test_what_is_no_cluster(file: Path, text: str, parts: tuple[str, ...]) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        cluster(file)
    assert all(part in str(refused.value) for part in parts), refused.value


def test_files_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cluster=.*my cluster=1\.yaml cannot be read: No such file"):
        cluster(file)
    file.write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="is no YAML"):
        cluster(file)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        cluster(tmp_path / "folder.yaml")


def test_a_word_without_suffix_is_one_of_ours() -> None:
    with pytest.raises(ConfigError, match=r"cluster=alps does not exist. Allowed: .*bare"):
        cluster(Path("alps"))
    assert cluster(Path("pyxis")).style == "pyxis"


def test_training_knows_no_cluster(file: Path) -> None:
    file.write_text("name: a\n")
    with pytest.raises(ConfigError, match="'cluster' is not a key of `crossthink train`"):
        resolve("train", TrainConfig, ["recipe=tiny", "out=a", f"cluster={file}"])
