"""Adam's state in a checkpoint: whole tensors by parameter name, whichever of megatron-core's optimizers holds it.

megatron-core 0.16.1's own checkpoint of the distributed optimizer is not used. With torch's Adam it asserts on an
optimizer that took no step (distrib_optimizer.py:642), looks for a tensor `step` that it never wrote (:940), and after
a load leaves all parameters with one and the same step tensor, which counts up once a parameter (:836). It could also
not be read by the plain optimizers, so a run could not resume at another data-parallel size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.dist_checkpointing.optimizer import (
    get_param_id_to_sharded_param_map,
    make_sharded_optimizer_tensor,
)
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from torch import Tensor

from recipes.actors.mcore.mesh import Mesh

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "fp32_param"
_STEP = "step"


def sharded_adam(adam: MegatronOptimizer, weights: ShardedStateDict, model: GPTModel, mesh: Mesh) -> dict[str, Any]:
    """Adam's state for `dist_checkpointing.save`: step, moments, and float32 weights where the model's are not.

    Data-parallel ranks that share the state share the saving: each puts together, in host memory, the parameters whose
    turn is its own, so that none holds more than its share. Collective.

    Args:
        weights: `model.sharded_state_dict()`.
    """
    inner = _inner(adam)
    slots = {id(parameter): (main, part) for parameter, main, part in _slots(inner)}
    shared = isinstance(inner, DistributedOptimizer)
    found: dict[str, Any] = {_STEP: _step(inner, mesh)}
    for index, parameter, sharded in _parameters(model, weights):
        owner = index % mesh.data if shared else 0
        for kind in _kinds(parameter):
            whole = torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
            if id(parameter) in slots:
                main, part = slots[id(parameter)]
                value = main.detach() if kind == MASTER else inner.optimizer.state[main].get(kind)
                if value is not None:
                    whole.view(-1)[part] = value.reshape(-1)
            if shared and mesh.data > 1:
                dist.reduce(whole, dist.get_global_rank(mesh.data_group, owner), group=mesh.data_group)
            if mesh.data_rank == owner:
                entry = make_sharded_optimizer_tensor(sharded, whole.cpu(), f"optimizer.state.{kind}")
                found[f"{index}.{kind}"] = dataclasses.replace(entry, replica_id=(*entry.replica_id[:-1], 0))
    return found


def blank_adam(adam: MegatronOptimizer, weights: ShardedStateDict, model: GPTModel) -> dict[str, Any]:
    """What `dist_checkpointing.load` fills in: whole tensors of the parameters of which this rank holds a part."""
    held = {id(parameter) for parameter, _, _ in _slots(_inner(adam))}
    return {
        f"{index}.{kind}": make_sharded_optimizer_tensor(
            sharded, torch.empty(parameter.shape, dtype=torch.float32), f"optimizer.state.{kind}"
        )
        for index, parameter, sharded in _parameters(model, weights)
        if id(parameter) in held
        for kind in _kinds(parameter)
    }


@torch.no_grad()
def load_adam(adam: MegatronOptimizer, loaded: dict[str, Any], model: GPTModel) -> None:
    """Put what was loaded into the optimizer; the model's weights are loaded already."""
    inner = _inner(adam)
    indices = {id(parameter): index for index, parameter in enumerate(model.parameters())}
    keeps_steps = isinstance(inner.optimizer, torch.optim.AdamW)
    for parameter, main, part in _slots(inner):
        index = indices[id(parameter)]
        state = inner.optimizer.state[main]
        for kind in _kinds(parameter):
            piece = loaded[f"{index}.{kind}"].view(-1)[part].view(main.shape)
            if kind == MASTER:
                main.copy_(piece)
            else:
                state[kind] = piece.to(main.device, copy=True)
        if keeps_steps:  # one tensor each: torch counts each up
            state[_STEP] = torch.tensor(float(loaded[_STEP]))
    if not keeps_steps:  # Transformer Engine's Adam counts by group
        for group in inner.optimizer.param_groups:
            group[_STEP] = int(loaded[_STEP])


def adam_tensors(adam: MegatronOptimizer) -> list[Tensor]:
    """The moments, and the float32 weights that are not the model's own."""
    inner = _inner(adam)
    found = [state[kind] for state in inner.optimizer.state.values() for kind in MOMENTS if kind in state]
    return found + [main for parameter, main, _ in _slots(inner) if parameter.dtype != torch.float32]


def _inner(adam: MegatronOptimizer) -> MegatronOptimizer:
    """megatron-core chains one optimizer for each kind of parameters; a dense model has one kind."""
    (inner,) = adam.chained_optimizers
    return inner


def _slots(inner: MegatronOptimizer) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """(model parameter, the tensor that Adam updates, which part of the flat parameter that is) of this rank."""
    if isinstance(inner, DistributedOptimizer):
        for model_groups, main_groups in (
            (inner.model_float16_groups, inner.shard_fp32_from_float16_groups),
            (inner.model_fp32_groups, inner.shard_fp32_groups),
        ):
            for model_group, main_group in zip(model_groups, main_groups, strict=True):
                for parameter, main in zip(model_group, main_group, strict=True):
                    part = inner._get_model_param_range_map(parameter)["param"]
                    yield parameter, main, slice(part.start, part.end)
    elif isinstance(inner, Float16OptimizerWithFloat16Params):
        for model_group, main_group in zip(inner.float16_groups, inner.fp32_from_float16_groups, strict=True):
            yield from ((p, main, slice(None)) for p, main in zip(model_group, main_group, strict=True))
    else:
        yield from ((parameter, parameter, slice(None)) for parameter in inner.get_parameters())


def _parameters(model: GPTModel, weights: ShardedStateDict) -> Iterator[tuple[int, Tensor, Any]]:
    """(number, parameter, its entry in the model's sharded state), in an order that data-parallel ranks share."""
    entries = get_param_id_to_sharded_param_map(weights, model.parameters())
    yield from ((index, parameter, entries[index]) for index, parameter in enumerate(model.parameters()))


def _kinds(parameter: Tensor) -> tuple[str, ...]:
    return MOMENTS if parameter.dtype == torch.float32 else (*MOMENTS, MASTER)


def _step(inner: MegatronOptimizer, mesh: Mesh) -> int:
    """Steps taken so far; a rank may hold no part of any parameter, so the ranks ask each other."""
    steps = [int(state[_STEP]) for state in inner.optimizer.state.values() if _STEP in state]
    steps += [int(group[_STEP]) for group in inner.optimizer.param_groups if _STEP in group]
    count = torch.tensor(max(steps, default=0), device=mesh.device)
    dist.all_reduce(count, op=dist.ReduceOp.MAX)
    return int(count)
