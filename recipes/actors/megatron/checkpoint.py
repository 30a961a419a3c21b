"""Weights, optimizer and RNG of every rank through megatron.core.dist_checkpointing; loads at any parallel sizes."""

from __future__ import annotations

import os
import queue
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch.distributed.checkpoint import FileSystemReader

from crossthink.errors import UserError
from recipes.actors.mcore.dist_weights import STATE, fetch_results_here
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.rng import restore_rng, save_rng
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
    # What was on a device, or was put together by `sharded_adam`, is a copy already.
    return StagedState(request, {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())})


class StagedState:
    """Implements `recipes.actors.interface.Staged` with megatron-core's request for an asynchronous save.

    megatron-core would write in a forked process. A thread does without a fork of a process that holds threads,
    sockets and a device.
    """

    def __init__(self, request: AsyncRequest, live: Collection[int]) -> None:
        """
        Args:
            request: what megatron-core planned on this rank.
            live: the storages that training goes on with.
        """
        self._finalize = request.finalize_fns
        self._buckets: list[Any] = []
        self._transforms: list[Any] = []
        self._results: queue.Queue = queue.Queue()
        if request.async_fn is not None:  # this rank has something to write
            self._transforms, _ = request.async_fn.args  # of the function that would fork
            self._results = request.async_fn_args[2]
            self._buckets = [_apart(bucket, live) for bucket in request.preload_fn()]

    def write(self) -> None:
        """See `Staged.write`."""
        found = {number: _write_bucket(number, bucket, self._transforms) for number, bucket in enumerate(self._buckets)}
        self._buckets = []
        self._results.put(found)

    def finish(self) -> None:
        """See `Staged.finish`."""
        for function in self._finalize:
            function()


def _apart(bucket: Any, live: Collection[int]) -> Any:
    """A file that is to be written, with copies of those tensors that share a storage with training."""
    path, key, (bytes_data, tensors) = bucket
    copies = [(item, t.clone() if t.untyped_storage().data_ptr() in live else t) for item, t in tensors]
    return path, key, (bytes_data, copies)


def _write_bucket(number: int, bucket: Any, transforms: list[Any]) -> list[Any]:
    """Write one file. Returns where in it everything stands."""
    results: queue.Queue = queue.Queue()
    running: queue.Queue = queue.Queue()
    running.put(number)
    FileSystemWriterAsync.write_preloaded_data(transforms, number, bucket, results, running, use_fsync=True)
    _, found = results.get_nowait()
    if not isinstance(found, Exception):
        return found
    cause: BaseException | None = found
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__  # torch hides a full disk in a RuntimeError
    raise cause or found


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
    _reserve(folder, model, mesh)
    fetch_results_here()
    save_rng(folder, mesh)
    weights = _sharded_weights(model)
    return {"model": weights, "optimizer": sharded_adam(optimizer, weights, model, mesh)}


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
