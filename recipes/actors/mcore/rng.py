"""RNG states of every rank, beside a checkpoint. Nothing that trains draws from them: dropout is off."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from safetensors.torch import load_file, save_file

from recipes.actors.mcore.mesh import Mesh

RNG = "rng"
_CPU, _DEVICE, _TRACKER = "cpu", "device", "tracker."


def save_rng(folder: Path, mesh: Mesh) -> None:
    """Write this rank's states into an existing folder that every rank sees. Collective."""
    if mesh.rank == 0:
        (folder / RNG).mkdir()
    dist.barrier()
    save_file(_rng_state(mesh), folder / RNG / _rng_name(mesh))


def restore_rng(folder: Path, mesh: Mesh) -> None:
    """Set this rank's states to what was saved, where that was at these parallel sizes."""
    saved = sorted(path.name for path in (folder / RNG).iterdir())
    if _rng_name(mesh) in saved and len(saved) == mesh.world:
        _restore_rng(load_file(folder / RNG / _rng_name(mesh)), mesh)


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
