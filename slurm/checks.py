"""What `submit` refuses before anything is queued."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import psutil

from conf.cluster import CONTINUATIONS, STYLES, ClusterConfig, SubmitConfig
from conf.plan import PlanConfig
from conf.train import TrainConfig
from crossthink.errors import ConfigError, UserError, did_you_mean
from recipes import train
from recipes.actors.mcore.limits import Machine
from recipes.nodes import check_nodes
from slurm import scheduler
from slurm.parts import components, gpus_of
from slurm.time_limit import seconds_of

SHARED = (
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "wekafs", "panfs", "pvfs2", "orangefs", "cifs",
    "smb3", "afs", "virtiofs", "9p", "vastnfs", "quobyte", "daos",
)  # fmt: skip
"""Types of file systems that several machines mount; those over FUSE count by what follows the dot."""
_REGISTRY = re.compile(r"([A-Za-z0-9.-]+(:\d+)?#)?[a-z0-9._/-]+(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?")
_LEAST = {
    "cpus_per_task": 1,
    "jobs": 1,
    "signal_s": 1,
    "retries": 0,
    "bad_node_failures": 1,
    "ready_s": 1,
    "hang_s": 1,
}


def check_config(config: SubmitConfig) -> None:
    """Refuse what no cluster could run.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    cluster = config.cluster
    for key, allowed in (("style", STYLES), ("continuation", CONTINUATIONS)):
        if getattr(cluster, key) not in allowed:
            raise ConfigError(f"cluster.{key}={getattr(cluster, key)} is not allowed. Allowed: {', '.join(allowed)}.")
    for key, least in _LEAST.items():
        value = getattr(cluster, key)
        if value is not None and value < least:
            raise ConfigError(f"cluster.{key}={value} is too small: at least {least}.")
    limit_s = seconds_of(cluster.time)
    if cluster.signal_s >= limit_s:
        raise ConfigError(
            f"cluster.signal_s={cluster.signal_s} is not before the end of cluster.time={cluster.time} ({limit_s} s)."
        )
    check_image(cluster)
    world = check_nodes(config)
    nodes, actor = config.nodes, config.actor
    if actor.tensor_parallel > nodes.gpus_per_node:
        raise ConfigError(
            f"actor.tensor_parallel={actor.tensor_parallel} is more than nodes.gpus_per_node={nodes.gpus_per_node}: "
            "tensor parallelism across nodes would wait for the network in every layer. Use actor.pipeline_parallel."
        )
    asked = gpus_of(cluster.gres)
    if asked not in (0, nodes.gpus_per_node):
        raise ConfigError(
            f"cluster.gres={cluster.gres} asks for {asked} GPUs a node, and nodes.gpus_per_node={nodes.gpus_per_node} "
            "uses another number. Give both the same."
        )
    gpus = cluster.gres is not None
    train.check(config, train.Elsewhere(world, Machine(cuda=gpus, transformer_engine=gpus, apex=gpus)))


def check_image(cluster: ClusterConfig) -> None:
    """Refuse containers without an image, images without containers, and files that are not there.

    Raises:
        ConfigError: see above.
    """
    for key in ("image", "rollout_image"):
        image = getattr(cluster, key)
        if cluster.style == "none":
            if image is not None:
                raise ConfigError(
                    f"cluster.{key}={image} has no use with cluster.style=none. Allowed: pyxis, apptainer."
                )
            continue
        if image is None:
            if key == "image":
                raise ConfigError(f"cluster.image= is missing: cluster.style={cluster.style} runs every task in one.")
            continue
        is_file = is_image_file(image)
        if is_file and not Path(image).exists():
            raise ConfigError(f"cluster.{key}={image} does not exist here. docs/containers.md says how to make one.")
        if not is_file and (cluster.style == "apptainer" or not _REGISTRY.fullmatch(image)):
            wanted = "a .sif file" if cluster.style == "apptainer" else "a .sqsh file, or REGISTRY#NAME:TAG"
            raise ConfigError(
                f"cluster.{key}={image} is no image for cluster.style={cluster.style}: {wanted} is needed."
            )


def is_image_file(image: str) -> bool:
    """Whether it names a file; else, for pyxis, one in a registry."""
    return image.startswith(("/", ".", "~")) or image.endswith((".sqsh", ".sif"))


def check_memory(config: SubmitConfig) -> None:
    """Refuse a layout that `plan` says does not fit the cluster's GPUs.

    Raises:
        ConfigError: how much over, and what to change.
    """
    if config.cluster.gpu is None:
        return
    from recipes.planning.job import make_job
    from recipes.planning.memory import fit, memory

    settings = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    job = make_job(PlanConfig(**settings, gpu=config.cluster.gpu))
    troubles = fit(job, memory(job))
    if troubles:
        raise ConfigError("The run does not fit: " + " ".join(troubles) + " `crossthink plan` shows the whole.")


def check_shared(config: SubmitConfig) -> None:
    """Refuse a run folder that only this machine sees, where the job has more than one node.

    Raises:
        ConfigError: names the type of the file system.
    """
    nodes = sum(part.nodes for part in components(config))
    if config.cluster.shared or nodes == 1:
        return
    where, kind = file_system(Path(config.out))
    if kind.removeprefix("fuse.").lower() not in SHARED:
        raise ConfigError(
            f"out={config.out} is on {where} of type {kind}, which the job's {nodes} nodes may not share. Choose out= "
            "on storage that all nodes mount, or set cluster.shared=true where they do."
        )


def file_system(path: Path) -> tuple[str, str]:
    """Mount point and type of the file system that holds `path`, which need not exist yet."""
    found = psutil.disk_partitions(all=True)[::-1]  # of two at one place the later hides the earlier, such as autofs
    above = [path.resolve(), *path.resolve().parents]
    holding = [one for one in found if Path(one.mountpoint) in above]
    nearest = max(holding, key=lambda one: len(one.mountpoint), default=None)
    return (nearest.mountpoint, nearest.fstype) if nearest else ("/", "unknown")


def check_cluster(config: SubmitConfig) -> None:
    """Refuse partitions that SLURM does not have, more nodes than they hold, and longer times than they allow.

    Raises:
        ConfigError: see above.
        UserError: SLURM is not here, or does not answer.
    """
    if not scheduler.is_here():
        raise UserError(
            "sbatch is not on the path: submit from a login node of the cluster, or see the script with --dry-run. "
            "`slurm/local_cluster.sh start` makes a cluster on this machine to rehearse on."
        )
    try:
        known = scheduler.partitions()
    except UserError as error:
        raise UserError(
            "SLURM does not answer here. Submit from a login node of the cluster, or see the script with --dry-run. "
            f"{error}"
        ) from error
    default = next((name for name, partition in known.items() if partition.is_default), None)
    wanted: Counter[str] = Counter()
    for part in components(config):
        name = part.partition or default
        if name is None:
            raise ConfigError(f"cluster.partition= is missing: the cluster has no default. It has: {', '.join(known)}.")
        key = "partition" if part.role == "actor" else f"{part.role}_partition"
        if name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"cluster.{key}={name} does not exist. The cluster has: {', '.join(known)}.{near}")
        wanted[name] += part.nodes
        longest_s = known[name].longest_s
        if longest_s is not None and seconds_of(config.cluster.time) > longest_s:
            raise ConfigError(
                f"cluster.time={config.cluster.time} is more than partition {name} allows ({longest_s // 60} minutes). "
                "A run goes on in the next job, so a shorter one will do."
            )
    # SLURM tests each component alone, and would let their sum wait for ever.
    for name, count in wanted.items():
        if count > known[name].nodes:
            parts = ", ".join(f"nodes.{part.role}={part.nodes}" for part in components(config))
            raise ConfigError(f"{parts}: {count} nodes of partition {name}, which has {known[name].nodes}.")
