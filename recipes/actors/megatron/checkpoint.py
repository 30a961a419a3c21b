"""Weights, optimizer and RNG of every rank through megatron.core.dist_checkpointing; loads at any parallel sizes."""

from __future__ import annotations

import os
import queue
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from safetensors.torch import load_file, save_file

from recipes.actors.megatron.adam_state import blank_adam, load_adam, sharded_adam
from recipes.actors.megatron.mesh import Mesh

STATE = "state"
RNG = "rng"
_CPU, _DEVICE, _TRACKER = "cpu", "device", "tracker."


def save(folder: Path, model: GPTModel, optimizer: MegatronOptimizer, mesh: Mesh) -> None:
    """Write into `folder`, an existing empty folder that every rank sees. Collective.

    Raises:
        OSError: not enough space, found out before anything is written.
    """
    if mesh.rank == 0:
        (folder / STATE).mkdir()
        (folder / RNG).mkdir()
    dist.barrier()
    _reserve(folder, model, mesh)
    # A synchronous save fetches its results in this process. megatron-core's own queue lives in a manager process,
    # which takes seconds to start and outlives a killed trainer.
    filesystem_async._results_queue = queue.Queue()
    weights = _sharded_weights(model)
    state = {"model": weights, "optimizer": sharded_adam(optimizer, weights, model, mesh)}
    dist_checkpointing.save(state, str(folder / STATE))
    save_file(_rng_state(mesh), folder / RNG / _rng_name(mesh))
    dist.barrier()


def load(folder: Path, model: GPTModel, optimizer: MegatronOptimizer, mesh: Mesh) -> None:
    """Read what `save` wrote. RNG states return only at the sizes they were saved at; nothing that trains uses them.

    Reads torch's checkpoint metadata, which is a pickle: verify the folder first (`recipes.rl.checkpoints`).
    """
    weights = _sharded_weights(model)
    blank = {"model": weights, "optimizer": blank_adam(optimizer, weights, model)}
    # A rank asks only for what its optimizer holds, so that some parts are read by another than the first of their
    # data-parallel ranks; megatron-core's check of who reads what does not know that.
    state = dist_checkpointing.load(blank, str(folder / STATE), validate_access_integrity=False)
    model.load_state_dict(state["model"])
    load_adam(optimizer, state["optimizer"], model)
    saved = sorted(path.name for path in (folder / RNG).iterdir())
    if _rng_name(mesh) in saved and len(saved) == mesh.world:
        _restore_rng(load_file(folder / RNG / _rng_name(mesh)), mesh)


def _reserve(folder: Path, model: GPTModel, mesh: Mesh) -> None:
    """Ask the file system for this rank's share at once: torch's writer would hide a full disk in a RuntimeError."""
    weights_and_adam = 3 * sum(p.numel() * 4 for p in model.parameters())
    probe = folder / f".space_{mesh.rank}"
    with open(probe, "wb") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, weights_and_adam)
        finally:
            probe.unlink()
    dist.barrier()


def _sharded_weights(model: GPTModel) -> dict[str, Any]:
    return model.sharded_state_dict(
        metadata={"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
    )


def _rng_name(mesh: Mesh) -> str:
    return f"t{mesh.tensor_rank}_p{mesh.stage}_d{mesh.data_rank}.safetensors"


def _rng_state(mesh: Mesh) -> dict[str, torch.Tensor]:
    states = {_CPU: torch.get_rng_state()}
    if mesh.device.type == "cuda":
        states[_DEVICE] = torch.cuda.get_rng_state()
    return states | {_TRACKER + name: state.clone() for name, state in get_cuda_rng_tracker().get_states().items()}


def _restore_rng(states: dict[str, torch.Tensor], mesh: Mesh) -> None:
    torch.set_rng_state(states[_CPU])
    if mesh.device.type == "cuda":
        torch.cuda.set_rng_state(states[_DEVICE])
    tracked = {name.removeprefix(_TRACKER): s for name, s in states.items() if name.startswith(_TRACKER)}
    get_cuda_rng_tracker().set_states(tracked)
