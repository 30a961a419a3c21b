"""Parameters of a rank, and the bytes of weights, gradients and Adam's state that they come to.

The parameters are those of `recipes.actors.mcore.layout.WeightLayout`, counted without torch.
"""

from __future__ import annotations

import math

from recipes.models.nemo_folder import VOCABULARY_MULTIPLE
from recipes.planning.interface import Item, Job
from recipes.planning.job import stage_layers
from recipes.planning.parameters import Parameter, count, layer_parameters

FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MOMENTS = 2
"""Tensors of Adam's state beside the weights."""


def vocabulary_rows(job: Job) -> int:
    """Rows of embedding and head: the model's, padded so that tensor-parallel ranks share them; NeMo pads to more."""
    multiple = VOCABULARY_MULTIPLE if job.config.actor.name == "aligner" else 1
    step = math.lcm(job.tensor, multiple)
    return -(-job.shape.vocabulary // step) * step


def stage_parameters(job: Job, stage: int) -> list[Parameter]:
    """What a rank of a pipeline stage holds; the last stage has a copy of a tied embedding of its own."""
    shape, last = job.shape, job.pipeline - 1
    table = vocabulary_rows(job) // job.tensor * shape.hidden
    found = [Parameter("embedding", table)] if stage == 0 else []
    found += layer_parameters(shape, job.tensor) * stage_layers(job)[stage]
    if stage == last:
        found.append(Parameter("vector", shape.hidden))
        if not shape.tied or stage > 0:
            found.append(Parameter("head", table))
    return found


def critic_parameters(job: Job, stage: int) -> list[Parameter]:
    """As `stage_parameters`, of PPO's critic: one column in place of the head, and never tied."""
    found = [one for one in stage_parameters(job, stage) if one.kind != "head"]
    if stage == job.pipeline - 1:
        found.append(Parameter("vector", job.shape.hidden))
    return found


def is_distributed(job: Job) -> bool:
    """Whether data-parallel ranks share Adam's state (ZeRO-1)."""
    return bool(job.config.actor.distributed_optimizer)


def adam_elements(job: Job, parameters: list[Parameter]) -> float:
    """Elements whose Adam state a rank keeps: with ZeRO-1 a data-parallel share."""
    return count(parameters) / (job.data if is_distributed(job) else 1)


def master_bytes(job: Job) -> int:
    """Bytes a parameter that make its weight float32, beside the weight itself.

    megatron-core keeps a float32 copy of bfloat16 weights. apex's distributed Adam, as NeMo 2.1 sets it up
    (`store_param_remainders`, megatron_base_model.py:814), keeps the 16 bits that bfloat16 cuts off.
    """
    actor = job.config.actor
    if actor.dtype == "float32":
        return 0
    return 2 if actor.name == "aligner" and is_distributed(job) else FLOAT32


def training_state(job: Job, parameters: list[Parameter], whose: str = "") -> list[Item]:
    """Weights, gradients and optimizer of a model in training on one rank, bytes.

    Gradients are accumulated in float32 buffers of the whole stage, whatever the weights' type
    (`recipes/actors/megatron/optimizer.py`, grad_reduce_in_fp32); ZeRO-1 shares Adam's state alone.

    Args:
        job: the run.
        parameters: the rank's.
        whose: comes before the items' names.
    """
    parts = f", 1/{job.data} of it (ZeRO-1)" if is_distributed(job) and job.data > 1 else ""
    elements, masters = adam_elements(job, parameters), master_bytes(job)
    found = [
        Item(f"{whose}weights", count(parameters) * BYTES[job.config.actor.dtype or "float32"]),
        Item(f"{whose}gradients", count(parameters) * FLOAT32, note="float32"),
        Item(f"{whose}Adam moments", elements * MOMENTS * FLOAT32, note=f"float32{parts}"),
    ]
    if masters:
        found.append(Item(f"{whose}master weights", elements * masters, note=f"{masters} bytes a parameter{parts}"))
    return found
