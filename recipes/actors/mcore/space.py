"""Room on the disk for a checkpoint, asked for before it is written."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed as dist
from megatron.core.models.gpt import GPTModel

from recipes.actors.mcore.mesh import Mesh


def reserve_space(folder: Path, model: GPTModel, mesh: Mesh) -> None:
    """Ask the file system for this rank's share at once: torch's writer would hide a full disk in a RuntimeError.

    The share is that of the weights and Adam's two moments in float32. Collective.

    Raises:
        OSError: not enough space.
    """
    weights_and_adam = 3 * sum(p.numel() * 4 for p in model.parameters())
    probe = folder / f".space_{mesh.rank}"
    with open(probe, "wb") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, weights_and_adam)
        finally:
            probe.unlink()
    dist.barrier()
