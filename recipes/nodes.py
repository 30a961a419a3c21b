"""How a job's nodes are filled: the actor's ranks, and servers. Pure functions of the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from conf.train import TrainConfig
from crossthink.errors import ConfigError

Config = TypeVar("Config", bound=TrainConfig)


def server_gpus(config: TrainConfig) -> int:
    """GPUs of one rollout server."""
    return max(1, config.rollout.trtllm.tensor_parallel) if config.rollout.name == "trtllm" else 1


def own_rollout_servers(config: TrainConfig) -> int:
    """Rollout servers that the run, or its job, starts: none where `rollout.url` names those of others."""
    return 0 if config.rollout.url else config.rollout.servers


def has_critic_server(config: TrainConfig) -> bool:
    """Whether the run's critic is a server of its own."""
    return config.algorithm.name == "ppo" and config.actor.name == "aligner"


def with_servers(config: Config) -> Config:
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
    gpus = server_gpus(config)
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
    servers, over = config.rollout.servers, max(1, min(nodes.actor, config.rollout.servers))
    if not nodes.rollout and -(-servers // over) * server_gpus(config) > nodes.gpus_per_node:
        raise ConfigError(
            f"rollout.servers={servers} of {server_gpus(config)} GPUs each are more than the {over} actor nodes of "
            f"{nodes.gpus_per_node} GPUs hold. Lower it, or set nodes.rollout."
        )
    return world
