"""The process mesh: tensor × pipeline × data parallel, over NCCL on GPUs and gloo on CPUs."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.distributed import ProcessGroup

from recipes.rendezvous import meet

TIMEOUT_S = 600.0
"""Seconds a collective may take before the rank gives up."""


@dataclass(frozen=True)
class Mesh:
    """This rank's place. `stage` is its pipeline stage."""

    rank: int
    world: int
    tensor: int
    pipeline: int
    data: int
    tensor_rank: int
    stage: int
    data_rank: int
    device: torch.device

    @property
    def tensor_group(self) -> ProcessGroup:
        """Ranks that hold slices of the same layers for the same data."""
        return parallel_state.get_tensor_model_parallel_group()

    @property
    def pipeline_group(self) -> ProcessGroup:
        """Ranks that hold the stages of one copy of the model, first stage first."""
        return parallel_state.get_pipeline_model_parallel_group()

    @property
    def data_group(self) -> ProcessGroup:
        """Ranks that hold the same weights for different data."""
        return parallel_state.get_data_parallel_group()

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.stage == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the head, and so computes the loss."""
        return self.stage == self.pipeline - 1

    def global_rank_of_stage(self, stage: int) -> int:
        """The rank, in the default group, of `stage` in this rank's pipeline."""
        return dist.get_global_rank(self.pipeline_group, stage)


def join_mesh(tensor: int, pipeline: int, timeout_s: float = TIMEOUT_S) -> Mesh:
    """Join the process group that RANK, WORLD_SIZE and `recipes.rendezvous` describe, and split it.

    Args:
        tensor: tensor-parallel size.
        pipeline: pipeline-parallel size. What is left of the world is data parallel.
        timeout_s: seconds a collective may take before the rank gives up.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=rank,
            world_size=world,
            store=meet(rank, world, timeout_s),
            timeout=datetime.timedelta(seconds=timeout_s),
        )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        distributed_timeout_minutes=max(1, int(timeout_s // 60)),
    )
    return Mesh(
        rank=rank,
        world=world,
        tensor=tensor,
        pipeline=pipeline,
        data=parallel_state.get_data_parallel_world_size(),
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        stage=parallel_state.get_pipeline_model_parallel_rank(),
        data_rank=parallel_state.get_data_parallel_rank(),
        device=device,
    )


def leave_mesh() -> None:
    """Take the process groups down; a process that exits with live ones may abort."""
    if dist.is_initialized():
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
