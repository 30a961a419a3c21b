"""Who sends how much over which link in a step, by formula.

Ranks are numbered as megatron-core does: tensor-parallel neighbours first, then data-parallel ones, then pipeline
stages (`parallel_state.initialize_model_parallel`, order tp-cp-ep-dp-pp), and a node holds consecutive ranks.
Collectives are rings: each of n ranks sends (n - 1) / n of the whole buffer in an all-gather or a reduce-scatter, and
twice that in an all-reduce (Thakur et al. 2005; NCCL's bus bandwidth).
"""

from __future__ import annotations

from recipes.models.families import ModelShape
from recipes.planning.interface import Gpu, Job, Traffic
from recipes.planning.job import stage_layers
from recipes.planning.parameters import all_parameters, count
from recipes.planning.weights import BYTES, FLOAT32, stage_parameters

NODE, NETWORK = "node", "network"
COLLECTIVE_LATENCY_S = 10e-6
"""Of one small all-reduce inside a node. [assumed: what NCCL and TensorRT-LLM's own kernels take on NVLink, about]"""


def ring(size: float, ranks: int) -> float:
    """Bytes that each rank sends in an all-gather or a reduce-scatter of a buffer of `size` bytes in all."""
    return size * (ranks - 1) / ranks


def all_reduce(size: float, ranks: int) -> float:
    """Bytes that each rank sends in a ring all-reduce of a buffer of `size` bytes."""
    return 2 * ring(size, ranks)


def link(job: Job, group: str) -> str:
    """Whether the ranks of a group share a node, or some must use the network.

    Args:
        job: what is planned.
        group: TP, DP, PP, or refit (the actor's first rank to all rollout servers).
    """
    if group == "refit":
        return NODE if job.servers_share_gpus and job.world <= job.gpus_per_node else NETWORK
    size, stride = _size_and_stride(job, group)
    return NODE if ranks_on_node(size, stride, job.world, job.gpus_per_node) == size else NETWORK


def bandwidth(job: Job, group: str) -> float:
    """Bytes/s at which a rank of the group sends, before any efficiency.

    Pipeline stages and a refit send from one GPU to another, over one adapter.
    """
    assert job.gpu is not None
    if group not in ("PP", "refit"):
        return ring_bandwidth(job.gpu, *_size_and_stride(job, group), job.world, job.gpus_per_node)
    return job.gpu.node_link if link(job, group) == NODE else job.gpu.network_link


def ring_bandwidth(gpu: Gpu, size: int, stride: int, world: int, gpus_per_node: int) -> float:
    """Bytes/s at which a rank of a ring sends, before any efficiency.

    A ring over several nodes has one hop between two of them, over the adapters of all its ranks on a node.

    Args:
        gpu: of all ranks.
        size: ranks of the ring.
        stride: from one of them to the next.
        world: ranks of the actor.
        gpus_per_node: of a node.
    """
    here = ranks_on_node(size, stride, world, gpus_per_node)
    return gpu.node_link if here == size else min(gpu.node_link, here * gpu.network_link)


def ranks_on_node(size: int, stride: int, world: int, gpus_per_node: int) -> int:
    """Ranks of a group on one node; all of them only where no group of the kind crosses from one node to the next.

    Its arguments are those of `ring_bandwidth`.
    """
    if world <= gpus_per_node or gpus_per_node % (size * stride) == 0:
        return size
    return max(1, min(size - 1, gpus_per_node // stride))


def layer_traffic(shape: ModelShape, positions: float, ranks: int, element: int) -> float:
    """Bytes that a tensor-parallel rank sends for one layer's forward pass; the backward pass sends as many.

    Two all-reduces of the residual stream, behind attention and MLP. With sequence parallelism each is a
    reduce-scatter and an all-gather: the same bytes (Korthikanti et al. 2022, section 4.2.2).

    Args:
        shape: the model's.
        positions: of the pass.
        ranks: tensor-parallel size.
        element: bytes of an activation.
    """
    return 2 * all_reduce(positions * shape.hidden * element, ranks)


def log_prob_passes(job: Job) -> int:
    """Forward passes over the rollout before it is trained on: the reference's, and the policy's own where it moves."""
    algorithm = job.config.algorithm
    own = job.config.updates_per_rollout > 1 or (algorithm.kl > 0 and algorithm.kl_in == "reward")
    return (algorithm.kl > 0) + own


def positions_of_rank(job: Job) -> float:
    """Positions of a step that one data-parallel rank computes, without padding."""
    samples = job.config.prompts_per_step * job.config.samples_per_prompt
    return samples * (job.prompt + job.response - 1) / job.data


def weight_bytes(job: Job) -> int:
    """The whole model in the actor's dtype: what a refit carries."""
    return all_parameters(job.shape) * BYTES[job.dtype]


def most_parameters(job: Job) -> int:
    """Parameters of a rank of the stage that holds most."""
    return max(count(stage_parameters(job, stage)) for stage in range(job.pipeline))


def traffic(job: Job) -> list[Traffic]:
    """All that ranks send in a step; a critic's own passes (PPO) are not in it."""
    return [*tensor_traffic(job), *pipeline_traffic(job), *data_traffic(job), *refit_traffic(job)]


def tensor_traffic(job: Job) -> list[Traffic]:
    """Activations that tensor-parallel ranks exchange, in the stage with most layers."""
    if job.tensor == 1:
        return []
    actor = job.config.actor
    element = BYTES[job.dtype]
    forward = max(stage_layers(job)) * layer_traffic(job.shape, positions_of_rank(job), job.tensor, element)
    # Two of a layer's four halves of an all-reduce: both column-parallel products gather their input once more for
    # the gradient of the weights (megatron-core 0.16.1, tensor_parallel/layers.py:483 and :522).
    again = forward / 2 if actor.sequence_parallel else 0.0
    train = forward * (3 if actor.recompute == "full" else 2) + again
    found = [Traffic("train: activations", "TP", train, link(job, "TP"))]
    if passes := log_prob_passes(job):
        found.append(Traffic("log_probs: activations", "TP", passes * forward, link(job, "TP")))
    return found


def pipeline_traffic(job: Job) -> list[Traffic]:
    """Activations to the next stage and their gradients to the one before, of a stage that has both."""
    if job.pipeline == 1:
        return []
    actor = job.config.actor
    once = positions_of_rank(job) * job.shape.hidden * BYTES[job.dtype]
    if actor.sequence_parallel:
        once /= job.tensor
    train = once * (2 if job.pipeline > 2 else 1)
    found = [Traffic("train: activations, gradients", "PP", train, link(job, "PP"))]
    if passes := log_prob_passes(job):
        found.append(Traffic("log_probs: activations", "PP", passes * once, link(job, "PP")))
    return found


def data_traffic(job: Job) -> list[Traffic]:
    """Gradients, and the weights that each data-parallel rank updated for the others."""
    if job.data == 1:
        return []
    actor, updates = job.config.actor, job.config.updates_per_rollout
    held = most_parameters(job)
    gradients = held * FLOAT32  # accumulated and reduced in float32: recipes/actors/megatron/optimizer.py
    if not actor.distributed_optimizer:
        return [Traffic("train: gradients", "DP", updates * all_reduce(gradients, job.data), link(job, "DP"))]
    weights = held * BYTES[job.dtype]
    return [
        Traffic("train: gradients", "DP", updates * ring(gradients, job.data), link(job, "DP")),
        Traffic("train: weights", "DP", updates * ring(weights, job.data), link(job, "DP")),
    ]


def refit_traffic(job: Job) -> list[Traffic]:
    """Weights put together over TP and PP on every rank, and sent on to rollout servers where there are any."""
    whole, found = weight_bytes(job), []
    if job.tensor > 1:
        found.append(Traffic("refit: gather", "TP", ring(whole, job.tensor) / job.pipeline, link(job, "TP")))
    if job.pipeline > 1:
        found.append(Traffic("refit: broadcast", "PP", whole, link(job, "PP")))
    if job.served:
        found.append(Traffic("refit: to rollout servers", "refit", whole, link(job, "refit")))
    return found


def _size_and_stride(job: Job, group: str) -> tuple[int, int]:
    """Ranks of the group, and from one of them to the next."""
    return {
        "TP": (job.tensor, 1),
        "DP": (job.data, job.tensor),
        "PP": (job.pipeline, job.tensor * job.data),
    }[group]
