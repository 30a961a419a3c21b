"""A SLURM cluster of four nodes with two GPUs each, for all tests of one process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_helpers import Cluster, call, node_states, wait_until

NODES = 4
GPUS = 2
SETTLED_LIMIT_S = 120


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster. pytest-xdist's processes have one each; a test may leave neither jobs nor a dead node."""
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip("SLURM is not installed: run slurm/local_cluster.sh install")
    # Not pytest's folder, whose name may be too long for the sockets.
    folder = Path(tempfile.mkdtemp(prefix="crossthink-slurm-", dir="/tmp"))
    made = Cluster(folder)
    try:
        started = made.try_script("start", "--nodes", str(NODES), "--gpus", str(GPUS))
        assert started.returncode == 0, started.stderr
        yield made
    finally:
        stopped = made.try_script("stop")
        assert stopped.returncode == 0, stopped.stderr
        shutil.rmtree(folder)


@pytest.fixture
def quiet_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, for a test that leaves jobs and dead nodes behind: they are cancelled and started again."""
    yield cluster
    jobs = call(cluster, "squeue", "--noheader", "--format=%A").split()
    if jobs:
        call(cluster, "scancel", *jobs)
    for node in node_states(cluster):
        cluster.try_script("start-node", node)
    wait_until("all nodes idle", lambda: set(node_states(cluster).values()) == {"idle"}, SETTLED_LIMIT_S)
