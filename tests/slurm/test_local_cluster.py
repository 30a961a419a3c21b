"""The script that runs a real SLURM on this machine."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SCRIPT, Cluster, try_call, without_slurm
from slurm_helpers import batch_script, call, node_states, processes, submit_script, task_processes, wait_until


def test_every_node_is_idle_once_start_returns(quiet_cluster):
    assert node_states(quiet_cluster) == dict.fromkeys(("n1", "n2", "n3", "n4"), "idle")
    partitions = call(quiet_cluster, "sinfo", "--noheader", "--format=%P %D %G").splitlines()
    assert partitions == ["batch* 4 gpu:2", "gpu 4 gpu:2", "cpu 4 gpu:2"]
    assert quiet_cluster.try_script("status").returncode == 0


@pytest.fixture
def folder(cluster) -> Iterator[Path]:
    """A folder for a second cluster, beside the first; stopped at the end."""
    made = Path(tempfile.mkdtemp(prefix="crossthink-slurm-", dir="/tmp"))
    yield made
    Cluster(made).try_script("stop")
    shutil.rmtree(made)


def test_two_clusters_stand_side_by_side_and_stop_leaves_nothing(cluster, folder, tmp_path):
    second = Cluster(folder)
    started = second.try_script("start", "--nodes", "12", "--gpus", "8", "--cpus", "64", "--nodes-like", "Feature=h100")
    assert started.returncode == 0, started.stderr
    assert set(node_states(second).values()) == {"idle"} and len(node_states(second)) == 12
    again = second.try_script("start", "--nodes", "2")
    assert again.returncode == 0 and "runs already" in again.stdout and "12 nodes" in again.stdout
    printed = second.try_script("env").stdout
    assert printed == f"export SLURM_CONF={folder}/slurm.conf\n"

    parts = "\n#SBATCH hetjob\n".join(
        f"#SBATCH --nodes={nodes} --ntasks-per-node=8 --cpus-per-task=8 --gres=gpu:8 --constraint=h100 --exclusive"
        for nodes in (4, 8)
    )
    large = batch_script(tmp_path / "large", parts, "hostname")
    assert second.try_call("sbatch", "--test-only", large).returncode == 0
    assert cluster.try_call("sbatch", "--test-only", large).returncode != 0

    # A task may leave slurmstepd's session, its parent and its environment.
    marker = tmp_path / "task"
    marker.write_text("sleep 120\n")
    task = f"(setsid bash {marker} &); env -i bash {marker} & sleep 120"
    submit_script(second, batch_script(tmp_path / "job", "#SBATCH --nodes=2", f'srun bash -c "{task}"'))
    wait_until("four of them run", lambda: len(task_processes(str(marker))) >= 4, 120)
    daemons = processes(folder)
    assert len(daemons) >= 14
    stopped = second.try_script("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not processes(folder) and not processes(marker)
    assert second.try_script("stop").returncode == 0
    assert second.try_script("status").returncode == 1
    assert cluster.try_script("status").returncode == 0, "the other cluster goes on"

    assert second.try_script("start", "--nodes", "1").returncode == 0
    assert node_states(second) == {"n1": "idle"}
    assert call(second, "squeue", "--noheader") == "", "no job of before"


def test_what_has_died_is_named_and_cleared_away(cluster, folder):
    dying = Cluster(folder)
    assert dying.try_script("start", "--nodes", "1").returncode == 0
    controller = int((folder / "slurmctld.pid").read_text())
    os.kill(controller, 9)
    wait_until("it is gone", lambda: controller not in processes(folder), 120)
    status = dying.try_script("status")
    assert status.returncode == 1
    assert "slurmctld does not run" in status.stdout and "n1 runs" in status.stdout
    assert dying.try_script("start-node", "n1").returncode == 1
    assert dying.try_script("start", "--nodes", "2").returncode == 0
    assert node_states(dying) == {"n1": "idle", "n2": "idle"}


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(cluster, folder):
    failed = Cluster(folder).try_script("start", "--nodes-like", "NoSuchWord=1")
    assert failed.returncode == 1
    assert "NoSuchWord" in failed.stderr and "did not start" in failed.stderr
    assert not processes(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage:"),
        (["begin"], "unknown command 'begin'"),
        (["start", "--nodes", "0"], "--nodes 0: give a whole number from 1 to 64"),
        (["start", "--gpus", "two"], "--gpus two: give a whole number"),
        (["start", "--nodes"], "without its value: '--nodes'"),
        (["start", "--what", "1"], "unknown option '--what'"),
        (["start", "n3"], "'n3'"),
        (["kill-node"], "kill-node which node?"),
        (["start", "--dir", "/tmp/a b"], "slurm.conf takes letters"),
        (["start", "--dir", f"/tmp/{'long' * 20}"], "too long for sockets"),
        (["start", "--dir", "/usr"], "neither empty nor a cluster's folder"),
    ],
)
def test_bad_usage_is_named(cluster, words, message):
    done = try_call([SCRIPT, *words], without_slurm())
    assert done.returncode == 2
    assert message in done.stderr


def test_nodes_of_another_cluster_are_refused(cluster):
    refused = cluster.try_script("kill-node", "n9")
    assert refused.returncode == 2
    assert "node 'n9' is not of this cluster; it has n1 n2 n3 n4" in refused.stderr


def test_help_names_every_command():
    done = try_call([SCRIPT, "--help"], without_slurm())
    assert done.returncode == 0
    assert all(
        f"\n  {word} " in done.stdout for word in ("start", "stop", "status", "env", "install", "kill-node NODE")
    )


@pytest.fixture
def bare_path(tmp_path) -> Path:
    """A PATH without sbatch, whose apt-get notes how it was called and brings one."""
    path = tmp_path / "bin"
    path.mkdir()
    for program in ("bash", "env", "id", "realpath", "chmod"):
        (path / program).symlink_to(shutil.which(program))
    for program, text in {
        "apt-get": f'echo "$*" >>{tmp_path}/asked; echo "#!/bin/bash" >{path}/sbatch; chmod +x {path}/sbatch',
        "sudo": 'exec "$@"',
        **dict.fromkeys(("munged", "slurmctld", "slurmd"), "exit 0"),
    }.items():
        (path / program).write_text(f"#!{path}/bash\n{text}\n")
        (path / program).chmod(0o755)
    return path


def test_what_is_missing_is_installed_when_told_to(bare_path, tmp_path):
    refused = try_call([SCRIPT, "start", "--dir", tmp_path / "c"], {"PATH": str(bare_path)})
    assert refused.returncode == 2
    assert "missing: sbatch" in refused.stderr and "apt-get install slurm-wlm munge" in refused.stderr
    assert not (tmp_path / "asked").exists()
    assert try_call([SCRIPT, "install", "--install"], {"PATH": str(bare_path)}).returncode == 0
    assert (tmp_path / "asked").read_text() == "update\ninstall -y --no-install-recommends slurm-wlm munge\n"


@pytest.mark.parametrize(("answer", "installed"), [("y", True), ("n", False), ("", False)])
def test_a_terminal_is_asked_first(bare_path, tmp_path, answer, installed):
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        [SCRIPT, "install"], stdin=theirs, capture_output=True, text=True, timeout=60, env={"PATH": str(bare_path)}
    )
    os.close(ours)
    os.close(theirs)
    assert (done.returncode == 0) == installed, done.stderr
    assert (tmp_path / "asked").exists() == installed
