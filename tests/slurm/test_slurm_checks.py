"""What `submit` refuses before anything is written or queued; each message names key and value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from submit_helpers import FakeSlurm, config, everything, fake_slurm, hide_slurm, settled_config, submitted

from crossthink.errors import EXIT_FAILED, EXIT_USAGE, ConfigError, UserError
from slurm import checks, scheduler
from slurm.checks import check_config, check_image, check_memory, check_shared, file_system
from slurm.scheduler import Job, Partition
from slurm.submit import run


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return fake_slurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def refuses(tmp_path: Path, slurm: FakeSlurm) -> Callable[..., str]:
    """The message with which `submit` refuses these words; nothing may be written or queued."""

    def refused(*words: str, kind: type[UserError] = ConfigError) -> str:
        out = tmp_path / "runs" / "a"
        with pytest.raises(UserError) as caught:
            run(config(out, *words))
        assert type(caught.value) is kind
        assert caught.value.exit_code == (EXIT_USAGE if kind is ConfigError else EXIT_FAILED)
        assert not out.parent.exists() and slurm.submitted == []
        message = str(caught.value)
        assert "\n" not in message
        return message

    return refused


@pytest.mark.parametrize(
    "words, parts",
    [
        (("cluster.style=docker",), ("cluster.style=docker", "none, pyxis, apptainer")),
        (("cluster.continuation=again",), ("cluster.continuation=again", "requeue, chain")),
        (("cluster.time=4h",), ("cluster.time=4h", "hours:minutes:seconds")),
        (("cluster.time=00:05:00",), ("cluster.signal_s=300", "cluster.time=00:05:00", "300 s")),
        (("cluster.jobs=0",), ("cluster.jobs=0", "at least 1")),
        (("cluster.retries=-1",), ("cluster.retries=-1", "at least 0")),
        (("cluster.cpus_per_task=0",), ("cluster.cpus_per_task=0", "at least 1")),
        (("cluster.signal_s=0",), ("cluster.signal_s=0",)),
        (("cluster.hang_s=0",), ("cluster.hang_s=0",)),
        (("cluster.ready_s=0",), ("cluster.ready_s=0",)),
        (("cluster.bad_node_failures=0",), ("cluster.bad_node_failures=0",)),
        (("cluster.style=pyxis",), ("cluster.image= is missing", "cluster.style=pyxis")),
        (("cluster.image=a.sif",), ("cluster.image=", "cluster.style=none", "pyxis, apptainer")),
        (("cluster=pyxis", "cluster.image=/none/a.sqsh"), ("cluster.image=/none/a.sqsh", "does not exist")),
        (("nodes.gpus_per_node=3",), ("nodes.gpus_per_node=3", "do not fill")),
        (("cluster.gres='gpu:h100:8'",), ("cluster.gres=gpu:h100:8", "8 GPUs", "nodes.gpus_per_node=4")),
        (("actor.tensor_parallel=0",), ("actor.tensor_parallel=0", "at least 1")),
        (
            ("nodes.actor=2", "nodes.gpus_per_node=2", "actor.tensor_parallel=4", "actor.pipeline_parallel=1"),
            ("actor.tensor_parallel=4", "nodes.gpus_per_node=2", "actor.pipeline_parallel"),
        ),
        (("steps=0",), ("steps=0",)),
        (("rollout.servers=3", "nodes.rollout=2"), ("rollout.servers=3",)),
        (("cluster.env.'A B'=1",), ("A B",)),
        # Of the cluster itself:
        (("cluster.partition=bach",), ("cluster.partition=bach", "batch, cpu", "Did you mean 'batch'?")),
        (("cluster.reward_partition=x", "nodes.reward=1"), ("cluster.reward_partition=x", "batch, cpu")),
        (("cluster.rollout_partition=x", "nodes.rollout=1"), ("cluster.rollout_partition=x", "batch, cpu")),
        (("nodes.actor=5",), ("nodes.actor=5", "5 nodes of partition batch, which has 4")),
        (
            ("nodes.actor=3", "nodes.rollout=2"),
            ("nodes.actor=3, nodes.rollout=2", "5 nodes of partition batch, which has 4"),
        ),
        (
            ("cluster.reward_partition=cpu", "nodes.reward=3", "cluster.time=01:00:00"),
            ("nodes.reward=3", "3 nodes of partition cpu, which has 2"),
        ),
        (("cluster.partition=cpu",), ("cluster.time=04:00:00", "partition cpu", "120 minutes", "next job")),
    ],
)
def test_bad_input(refuses: Callable[..., str], words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    message = refuses(*words)
    assert all(part in message for part in parts), message


def test_no_sbatch_on_the_path(refuses: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_slurm(tmp_path / "empty", monkeypatch)
    message = refuses(kind=UserError)
    assert message.startswith("sbatch is not on the path") and "--dry-run" in message and "local_cluster.sh" in message


def test_a_cluster_without_a_default_partition(refuses: Callable[..., str], slurm: FakeSlurm) -> None:
    slurm.says("sinfo", "a|a|4|infinite\nb|b|2|30:00\n")
    assert "cluster.partition= is missing" in (message := refuses()) and "a, b" in message


def test_a_cluster_that_does_not_answer(refuses: Callable[..., str], slurm: FakeSlurm) -> None:
    slurm.says("sinfo", err="slurm_load_partitions: Unable to contact slurm controller", code=1)
    message = refuses(kind=UserError)
    assert "sinfo" in message and "Unable to contact slurm controller" in message and "login node" in message


def test_what_slurm_itself_refuses(refuses: Callable[..., str], slurm: FakeSlurm) -> None:
    slurm.sbatch(refuses="sbatch: error: invalid account")
    message = refuses(kind=UserError)
    assert "--test-only" in message and "invalid account" in message


def test_a_run_folder_that_only_this_machine_sees(refuses: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(monkeypatch, ("/", "ext4"))
    message = refuses("nodes.actor=2", "actor.data_parallel=2")
    assert "out=" in message and "on / of type ext4" in message and "2 nodes" in message
    assert "cluster.shared=true" in message


def test_a_run_that_has_a_job_already(tmp_path: Path, slurm: FakeSlurm) -> None:
    out = tmp_path / "run"
    (out / "cluster").mkdir(parents=True)
    submitted(out, "41")
    slurm.says("squeue", "41|RUNNING|None|2026-01-01T00:00:00|2026-01-01T04:00:00|n1\n")
    before = everything(out)
    with pytest.raises(ConfigError) as refused:
        run(config(out))
    assert f"out={out} already has job 41 (RUNNING)" in str(refused.value) and "scancel 41" in str(refused.value)
    assert everything(out) == before and slurm.submitted == []


def test_a_run_folder_in_use(tmp_path: Path, slurm: FakeSlurm) -> None:
    from recipes.run_folder import locked

    out = tmp_path / "run"
    with locked(out), pytest.raises(ConfigError, match="in use by another process"):
        run(config(out))
    assert everything(out) == [".lock"] and slurm.submitted == []


def test_a_layout_that_does_not_fit_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan` is asked where the cluster says which GPUs it has, with the run's own settings."""
    made = settled_config("/runs/a", "cluster.gpu=h100", "micro_batch_tokens=777")
    asked = []

    def job_of(plan_config):
        asked.append((plan_config.gpu, plan_config.micro_batch_tokens, plan_config.nodes.gpus_per_node))
        return "job"

    from recipes.planning import job, memory

    monkeypatch.setattr(job, "make_job", job_of)
    monkeypatch.setattr(memory, "memory", lambda job: "table")
    troubles = ["9 GB over: raise actor.tensor_parallel."]
    monkeypatch.setattr(memory, "fit", lambda job, table: troubles)
    with pytest.raises(ConfigError, match="The run does not fit: 9 GB over: raise actor.tensor_parallel. `crossthink"):
        check_memory(made)
    assert asked == [("h100", 777, 4)]
    troubles.clear()
    check_memory(made)
    made.cluster.gpu = None
    check_memory(made)
    assert len(asked) == 2


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("cluster.gres='gpu:h100:4,tmp:1'",),
        ("cluster.gres='tmp:1'",),
        ("nodes.actor=2", "actor.data_parallel=2", "rollout.servers=2"),
        ("seed=1",),
    ],
)
def test_what_is_allowed(words: tuple[str, ...]) -> None:
    check_config(settled_config("/runs/a", *words))


def test_the_launchers_words_of_this_machine_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """`submit` may itself run inside a job, as one rank of one."""
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    check_config(settled_config("/runs/a"))


def test_gpus_of_the_nodes_count_and_not_of_this_machine() -> None:
    words = ("actor=aligner", "actor.transformer_engine=true", "actor.fp8=delayed", "actor.dtype=bfloat16")
    made = settled_config("/runs/a", *words, "cluster.gres=gpu:4")
    check_config(made)
    made.cluster.gres = None
    with pytest.raises(ConfigError, match="actor."):
        check_config(made)


@pytest.mark.parametrize(
    "style, image, wrong",
    [
        ("pyxis", "nvcr.io#nvidia/nemo:25.02", None),
        ("pyxis", "nvidia/cuda:12.4.0-base-ubuntu22.04", None),
        ("pyxis", "ghcr.io#a/b@sha256:" + "0" * 64, None),
        ("pyxis", "HERE/a.sqsh", None),
        ("pyxis", "docker://nvidia/cuda", "a .sqsh file, or REGISTRY#NAME:TAG"),
        ("pyxis", "HERE/b.sqsh", "does not exist"),
        ("pyxis", "b.sqsh", "does not exist"),
        ("apptainer", "HERE/a.sif", None),
        ("apptainer", "nvidia/cuda:12", "a .sif file is needed"),
        ("apptainer", "./b.sif", "does not exist"),
    ],
)
def test_images(tmp_path: Path, style: str, image: str, wrong: str | None) -> None:
    for name in ("a.sqsh", "a.sif"):
        (tmp_path / name).touch()
    image = image.replace("HERE", str(tmp_path))
    for key in ("image", "rollout_image"):
        cluster = config("/runs/a").cluster
        cluster.style, cluster.image = style, str(tmp_path / "a.sqsh")
        setattr(cluster, key, image)
        if wrong is None:
            check_image(cluster)
        else:
            with pytest.raises(ConfigError, match=f"cluster.{key}=.*{wrong}"):
                check_image(cluster)


def mounted(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]) -> None:
    """What is mounted where, in the order in which it was."""
    listed = [SimpleNamespace(mountpoint=where, fstype=kind) for where, kind in found]
    monkeypatch.setattr(checks.psutil, "disk_partitions", lambda all: listed)


@pytest.mark.parametrize(
    "kind, shared",
    [("nfs4", True), ("lustre", True), ("fuse.glusterfs", True), ("GPFS", True), ("xfs", False), ("fuse.sshfs", False)],
)
def test_file_systems_that_nodes_share(monkeypatch: pytest.MonkeyPatch, kind: str, shared: bool) -> None:
    mounted(monkeypatch, ("/", "ext4"), ("/runs", kind))
    made = settled_config("/runs/deep/a", "nodes.actor=2", "actor.data_parallel=2")
    if shared:
        check_shared(made)
        return
    with pytest.raises(ConfigError, match=f"on /runs of type {kind}"):
        check_shared(made)
    made.cluster.shared = True
    check_shared(made)
    check_shared(settled_config("/runs/deep/a"))  # one node shares with nobody


def test_the_nearest_mount_counts_and_of_two_the_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/home/me")
    mounted(
        monkeypatch, ("/", "ext4"), ("/home", "autofs"), ("/home", "nfs4"), ("/home/me", "autofs"), ("/home/me", "nfs"),
        ("/home/me2", "xfs"),
    )  # fmt: skip
    assert file_system(Path("/home/you/runs")) == ("/home", "nfs4")
    assert file_system(Path("/home/me/runs/a")) == ("/home/me", "nfs")
    assert file_system(link / "runs") == ("/home/me", "nfs")
    assert file_system(Path("/opt/a")) == ("/", "ext4")
    mounted(monkeypatch)
    assert file_system(Path("/opt/a")) == ("/", "unknown")


def test_partitions_as_sinfo_shows_them(slurm: FakeSlurm) -> None:
    slurm.says("sinfo", "gpu|gpu*|3|1-00:00:00\ngpu|gpu*|1|1-00:00:00\ncpu|cpu|2|30:00\nlong|long|7|infinite\n")
    assert scheduler.partitions() == {
        "gpu": Partition(4, 86400, True),  # two lines, for two states of nodes
        "cpu": Partition(2, 1800, False),
        "long": Partition(7, None, False),
    }


def test_jobs_as_squeue_shows_them(slurm: FakeSlurm) -> None:
    slurm.says("squeue", "41+0|PENDING|Resources|N/A|N/A|\n41+1|PENDING|Resources|N/A|N/A|\n")
    assert scheduler.jobs(["41"]) == [
        Job("41+0", "PENDING", "Resources", "N/A", "N/A", ""),
        Job("41+1", "PENDING", "Resources", "N/A", "N/A", ""),
    ]
    assert "--jobs=41" in slurm.calls("squeue")[-1]
    slurm.says("squeue", err="slurm_load_jobs error: Invalid job id specified", code=1)
    assert scheduler.jobs(["41", "42"]) == []  # they ended long ago
    slurm.says("squeue", err="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        scheduler.jobs(["41"])
    assert scheduler.jobs([]) == []


def test_a_command_that_hangs_or_is_missing(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = slurm.folder / "bin" / "sinfo"
    tool.write_text("#!/bin/bash\nexec sleep 60\n")
    monkeypatch.setattr(scheduler, "LIMIT_S", 0.2)
    with pytest.raises(UserError, match=r"sinfo.* did not answer within 0\.2 s"):
        scheduler.partitions()
    hide_slurm(tmp_path / "empty", monkeypatch)
    with pytest.raises(UserError, match="sinfo is not on the path"):
        scheduler.partitions()
    assert not scheduler.is_here()
