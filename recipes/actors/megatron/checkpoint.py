"""Weights, optimizer and RNG of every rank through megatron.core.dist_checkpointing; loads at any parallel sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint import FileSystemReader

from crossthink.errors import UserError
from recipes.actors.mcore.dist_weights import STATE, fetch_results_here
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.rng import restore_rng, save_rng
from recipes.actors.mcore.space import reserve_space
from recipes.actors.mcore.staged import StagedState
from recipes.actors.megatron.adam_state import blank_adam, load_adam, sharded_adam


def stage(folder: Path, model: GPTModel, optimizer: MegatronOptimizer, mesh: Mesh) -> StagedState:
    """Copy into host memory what is to be saved, for writing it into `folder`. Collective.

    Args:
        folder: an existing empty folder that every rank sees.

    Raises:
        OSError: not enough space, found out before anything is written.
    """
    state = _begin(folder, model, optimizer, mesh)
    request = dist_checkpointing.save(state, str(folder / STATE), async_sharded_save=True)
    # What was put together by `sharded_adam` is a copy already.
    return StagedState(request, [*model.parameters(), *model.buffers()])


def load(folder: Path, model: GPTModel, optimizer: MegatronOptimizer, mesh: Mesh) -> None:
    """Read what was saved. RNG states return only at the sizes they were saved at; nothing that trains uses them.

    Reads torch's checkpoint metadata, which is a pickle: verify the folder first (`recipes.rl.checkpoints`).

    Raises:
        UserError: it holds weights of another type than `model` has.
    """
    weights = _sharded_weights(model)
    _check_dtype(folder / STATE, weights)
    blank = {"model": weights, "optimizer": blank_adam(optimizer, weights, model)}
    # A rank asks only for what its optimizer holds, so that some parts are read by another than the first of their
    # data-parallel ranks; megatron-core's check of who reads what does not know that.
    state = dist_checkpointing.load(blank, str(folder / STATE), validate_access_integrity=False)
    model.load_state_dict(state["model"])
    load_adam(optimizer, state["optimizer"], model)
    restore_rng(folder, mesh)


def _begin(folder: Path, model: GPTModel, optimizer: MegatronOptimizer, mesh: Mesh) -> dict[str, Any]:
    """Make room and write the RNG states. Returns what `dist_checkpointing.save` is to write."""
    if mesh.rank == 0:
        (folder / STATE).mkdir()
    dist.barrier()
    reserve_space(folder, model, mesh)
    fetch_results_here()
    save_rng(folder, mesh)
    weights = _sharded_weights(model)
    return {"model": weights, "optimizer": sharded_adam(optimizer, weights, model, mesh)}


def _check_dtype(state: Path, weights: dict[str, Any]) -> None:
    saved = FileSystemReader(state).read_metadata().state_dict_metadata
    for entry in weights.values():
        if isinstance(entry, ShardedTensor) and entry.key in saved:
            dtype = saved[entry.key].properties.dtype
            if dtype != entry.dtype:
                raise UserError(
                    f"{state} holds {entry.key} as {dtype}, and this run would train it as {entry.dtype}. Resume with "
                    f"actor.dtype={str(dtype).removeprefix('torch.')}."
                )


def _sharded_weights(model: GPTModel) -> dict[str, Any]:
    return model.sharded_state_dict(
        metadata={"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
    )
