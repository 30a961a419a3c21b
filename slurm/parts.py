"""How a job is cut up: which nodes it asks for, and which tasks run on them. Pure functions of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace

from conf.cluster import ClusterConfig, SubmitConfig
from conf.train import TrainConfig
from crossthink.errors import ConfigError


@dataclass(frozen=True)
class Component:
    """Nodes of one kind: a component of a heterogeneous job, or the whole of a plain one.

    Attributes:
        role: actor, rollout or reward.
        nodes: how many.
        tasks_per_node: as sbatch counts them.
        partition: null: the cluster's default.
        gres: per node.
    """

    role: str
    nodes: int
    tasks_per_node: int
    partition: str | None
    gres: str | None


@dataclass(frozen=True)
class Tasks:
    """Tasks that one srun starts.

    Attributes:
        role: rank, critic, rollout or reward.
        component: index of the component that they run on.
        nodes: of the component, from its first.
        count: tasks.
        overlap: they share their nodes' resources with another srun.
    """

    role: str
    component: int
    nodes: int
    count: int
    overlap: bool = False

    @property
    def per_node(self) -> int:
        return -(-self.count // self.nodes)


def with_servers(config: TrainConfig) -> TrainConfig:
    """The config with `rollout.servers` as the rollout nodes have it, where nothing else is said.

    Raises:
        ConfigError: servers that do not spread evenly over the nodes, or over their GPUs.
    """
    nodes, rollout = config.nodes, config.rollout
    if not nodes.rollout:
        return config
    if rollout.url:
        raise ConfigError(
            f"nodes.rollout={nodes.rollout} has no use with rollout.url={rollout.url}. Drop one of the two."
        )
    gpus = max(1, rollout.trtllm.tensor_parallel) if rollout.name == "trtllm" else 1
    if nodes.gpus_per_node % gpus:
        raise ConfigError(
            f"rollout.trtllm.tensor_parallel={gpus} does not divide nodes.gpus_per_node={nodes.gpus_per_node}: an "
            "engine stays on one node."
        )
    most = nodes.rollout * (nodes.gpus_per_node // gpus)
    servers = rollout.servers or most
    if servers % nodes.rollout or servers > most:
        raise ConfigError(
            f"rollout.servers={servers} on nodes.rollout={nodes.rollout}: a multiple of {nodes.rollout}, at most "
            f"{most} ({nodes.gpus_per_node} GPUs a node, {gpus} a server)."
        )
    return replace(config, rollout=replace(rollout, servers=servers))


def components(config: SubmitConfig) -> list[Component]:
    """The nodes to ask for; the actor's first."""
    nodes, cluster = config.nodes, config.cluster
    found = [Component("actor", nodes.actor, nodes.gpus_per_node, cluster.partition, cluster.gres)]
    if nodes.rollout:
        per_node = config.rollout.servers // nodes.rollout
        partition = cluster.rollout_partition or cluster.partition
        found.append(Component("rollout", nodes.rollout, per_node, partition, cluster.gres))
    if nodes.reward:
        found.append(Component("reward", nodes.reward, 1, cluster.reward_partition or cluster.partition, None))
    return found


def tasks(config: SubmitConfig) -> list[Tasks]:
    """What runs on the nodes: servers first, the actor's ranks last. `config` has been through `with_servers`."""
    roles = [component.role for component in components(config)]
    nodes, found = config.nodes, []
    if not config.reward.url:
        own = "reward" in roles
        found.append(
            Tasks("reward", roles.index("reward") if own else 0, nodes.reward or 1, nodes.reward or 1, not own)
        )
    if config.rollout.servers and not config.rollout.url:
        own = "rollout" in roles
        over = nodes.rollout if own else min(nodes.actor, config.rollout.servers)
        found.append(Tasks("rollout", roles.index("rollout") if own else 0, over, config.rollout.servers, not own))
    ranks = nodes.actor * nodes.gpus_per_node
    if config.algorithm.name == "ppo" and config.actor.name == "aligner":
        found.append(Tasks("critic", 0, nodes.actor, ranks, True))
    # Everything else on the actor's nodes overlaps with the ranks, which therefore may not ask for them alone.
    found.append(Tasks("rank", 0, nodes.actor, ranks, any(one.component == 0 for one in found)))
    return found


def check_nodes(config: TrainConfig) -> int:
    """Ranks of the actor.

    Raises:
        ConfigError: a count that is too small, or ranks that TP × PP × DP does not give.
    """
    nodes, actor = config.nodes, config.actor
    for key, least in (("actor", 1), ("rollout", 0), ("reward", 0), ("gpus_per_node", 1)):
        if getattr(nodes, key) < least:
            raise ConfigError(f"nodes.{key}={getattr(nodes, key)} is too small: at least {least}.")
    for key in ("tensor_parallel", "pipeline_parallel"):
        if getattr(actor, key) < 1:
            raise ConfigError(f"actor.{key}={getattr(actor, key)} is too small: at least 1.")
    world, model_parallel = nodes.actor * nodes.gpus_per_node, actor.tensor_parallel * actor.pipeline_parallel
    data = actor.data_parallel or world // model_parallel
    if model_parallel * data != world or data == 0:
        sizes = f"actor.tensor_parallel={actor.tensor_parallel} × actor.pipeline_parallel={actor.pipeline_parallel}"
        if actor.data_parallel:
            sizes += f" × actor.data_parallel={actor.data_parallel}"
        raise ConfigError(
            f"nodes.actor={nodes.actor} × nodes.gpus_per_node={nodes.gpus_per_node} = {world} ranks, which {sizes} do "
            "not fill. Change the nodes or the layout."
        )
    if actor.tensor_parallel > nodes.gpus_per_node:
        raise ConfigError(
            f"actor.tensor_parallel={actor.tensor_parallel} is more than nodes.gpus_per_node={nodes.gpus_per_node}: "
            "tensor parallelism across nodes would wait for the network in every layer. Use actor.pipeline_parallel."
        )
    return world


def mounts(config: SubmitConfig, run: str) -> list[str]:
    """What every container sees: the run folder, model, data and weights_dir where they stand, and the user's own."""
    folders = [run, config.model.path, config.data, config.eval.data, config.rollout.weights_dir]
    return [f"{folder}:{folder}" for folder in dict.fromkeys(f for f in folders if f)] + config.cluster.mounts


def python_of(cluster: ClusterConfig, here: str) -> str:
    """The Python that tasks run: as the config says, else this one, or a container's own."""
    return cluster.python or (here if cluster.style == "none" else "python3")
