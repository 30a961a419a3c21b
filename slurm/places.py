"""Where a task stands among those of its srun, from SLURM's variables."""

from __future__ import annotations

import os
import socket

from conf.cluster import ClusterConfig
from recipes.machine import threads_each


def index() -> int:
    """This task's number among those of its srun."""
    return int(os.environ["SLURM_PROCID"])


def local_index() -> int:
    """This task's number on its node."""
    return int(os.environ["SLURM_LOCALID"])


def tasks_here() -> int:
    """Tasks of this srun on a node, at most: SLURM_STEP_TASKS_PER_NODE is like 2(x3),1."""
    return max(int(part.partition("(")[0]) for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","))


def threads(cluster: ClusterConfig) -> int:
    """CPU threads of this task."""
    return cluster.cpus_per_task or threads_each(tasks_here())


def node() -> str:
    """What SLURM calls this node."""
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())
