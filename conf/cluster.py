"""`crossthink submit` and `crossthink status`: a cluster, and what is asked of its scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.train import TrainConfig, _train_defaults

STYLES = ("none", "pyxis", "apptainer")
CONTINUATIONS = ("requeue", "chain")


@dataclass
class ClusterConfig:
    """A SLURM cluster: one of conf/cluster/, or `cluster=FILE.yaml` with these keys."""

    name: str = MISSING
    """What the cluster is called in messages."""
    account: str | None = None
    """Account that is charged."""
    partition: str | None = None
    """Partition of actor nodes; null: the cluster's default."""
    rollout_partition: str | None = None
    """Partition of rollout nodes; null: as partition."""
    reward_partition: str | None = None
    """Partition of reward nodes, which need no GPU; null: as partition."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Node features, such as h100."""
    reservation: str | None = None
    """Reservation."""
    gpu: str | None = None
    """GPU of the nodes as `plan` calls it (h100, ...): the run's memory is checked against it; null: it is not."""
    time: str = "04:00:00"
    """Time limit of one job, [days-]hours:minutes:seconds. A run goes on in the next job."""
    gres: str | None = None
    """Generic resources of an actor or rollout node: gpu:8 with nodes.gpus_per_node=8. null: none is asked for."""
    cpus_per_task: int | None = None
    """CPUs and threads of a rank or server; null: the partition's default, and threads by the CPUs that are there."""
    mem: str | None = None
    """Memory of a node, as sbatch --mem takes it; null: the partition's default."""
    exclusive: bool = True
    """Whole nodes."""
    options: list[str] = field(default_factory=list)
    """More sbatch options for every part of the job: "cluster.options=['--comment=rl']"."""
    style: str = "none"
    """Containers: none, pyxis (enroot) or apptainer."""
    image: str | None = None
    """Image of actor and reward server: a file, or for pyxis registry#name:tag."""
    rollout_image: str | None = None
    """Image of rollout servers (the one with TensorRT-LLM); null: as image."""
    mounts: list[str] = field(default_factory=list)
    """FROM:TO[:ro] of every container; the run folder, the model and the data are mounted where they stand."""
    modules: list[str] = field(default_factory=list)
    """Environment modules loaded by the batch script."""
    setup: list[str] = field(default_factory=list)
    """Shell lines of the batch script before anything starts; yours, taken as they are."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of every task."""
    python: str | None = None
    """Python on the nodes (in the container, where there is one) that has crossthink; null: this one, python3 there."""
    interface: str | None = None
    """Network interface whose address nodes publish, such as ib0; null: that of the host name."""
    continuation: str = "requeue"
    """How a run goes on after exit code 75: requeue (the same job again) or chain (jobs queued one behind another)."""
    exclude: list[str] = field(default_factory=list)
    """Nodes to leave out."""
    jobs: int = 8
    """continuation=chain: how many jobs are queued one behind another; requeue: how often the one job may start."""
    signal_s: int = 300
    """Seconds before the time limit at which the job is told to stop (USR1), beside what the run measures itself."""
    retries: int = 3
    """How often a run is tried again that ended for the same cause (a rank killed or hung; told to stop) without a new
    checkpoint since; then it ends."""
    bad_node_failures: int = 2
    """Machine failures on one node after which requeued jobs leave it out."""
    ready_s: float = 1800.0
    """Seconds until all servers and ranks must be ready."""
    hang_s: float = 3600.0
    """Seconds without a sign of life of a rank, after which it writes its stack and the attempt ends. More than the
    longest phase of a step, than a save, and than the check of a checkpoint."""
    shared: bool = False
    """The run folder is on storage that every node sees, although its file system's type does not say so."""


@dataclass
class SubmitConfig(TrainConfig):
    """Train on a SLURM cluster: renders a batch script, checks it, submits it. Takes all keys of `train`.

    `--dry-run` prints the script, and writes and queues nothing.
    """

    defaults: list[Any] = field(default_factory=lambda: [*_train_defaults(recipe=None), {"cluster": None}])
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass
class StatusConfig:
    """How a run stands: its jobs, step, reward, when it will be done, the first error."""

    run: str = MISSING
    """The run folder."""
    json: bool = False
    """Print JSON."""
