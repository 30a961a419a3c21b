"""How a job is cut up: which nodes it asks for, and which tasks run on them. Pure functions of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from conf.cluster import ClusterConfig, SubmitConfig
from recipes.nodes import has_critic_server, own_rollout_servers


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
        """Tasks of the fullest node."""
        return -(-self.count // self.nodes)


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
    """What runs on the nodes: servers first, ranks last. The config has been through `recipes.nodes.with_servers`."""
    roles = [component.role for component in components(config)]
    nodes, found = config.nodes, []
    if not config.reward.url:
        own = "reward" in roles
        found.append(
            Tasks("reward", roles.index("reward") if own else 0, nodes.reward or 1, nodes.reward or 1, not own)
        )
    if servers := own_rollout_servers(config):
        own = "rollout" in roles
        over = nodes.rollout if own else min(nodes.actor, servers)
        found.append(Tasks("rollout", roles.index("rollout") if own else 0, over, servers, not own))
    ranks = nodes.actor * nodes.gpus_per_node
    if has_critic_server(config):
        found.append(Tasks("critic", 0, nodes.actor, ranks, True))
    # Everything else on the actor's nodes overlaps with the ranks, which therefore may not ask for them alone.
    found.append(Tasks("rank", 0, nodes.actor, ranks, any(one.component == 0 for one in found)))
    return found


def gpus_of(gres: str | None) -> int:
    """GPUs of a node that a list of generic resources asks for: gpu, gpu:8, gpu:h100:8."""
    words = [one.split(":") for one in (gres or "").split(",")]
    return sum(int(count[-1]) if count[-1:] and count[-1].isdigit() else 1 for kind, *count in words if kind == "gpu")


def mounts(config: SubmitConfig, run: str) -> list[str]:
    """What every container sees: the run folder, model, data and weights_dir where they stand, and the user's own."""
    folders = [run, config.model.path, config.data, config.eval.data, config.rollout.weights_dir]
    return [f"{folder}:{folder}" for folder in dict.fromkeys(f for f in folders if f)] + config.cluster.mounts


def python_of(cluster: ClusterConfig, here: str) -> str:
    """The Python that tasks run: as the config says, else this one, or a container's own."""
    return cluster.python or (here if cluster.style == "none" else "python3")
