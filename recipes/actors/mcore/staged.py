"""A distributed checkpoint that is written while training goes on."""

from __future__ import annotations

import queue
from collections.abc import Collection, Iterable
from typing import Any

from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from torch import Tensor


class StagedState:
    """Implements `recipes.actors.interface.Staged` with megatron-core's request for an asynchronous save.

    megatron-core would write in a forked process. A thread does without a fork of a process that holds threads,
    sockets and a device.
    """

    def __init__(self, request: AsyncRequest, live: Iterable[Tensor]) -> None:
        """
        Args:
            request: what megatron-core planned on this rank, after `fetch_results_here`.
            live: tensors that training goes on with. What was on a device is a copy already.
        """
        self._finalize = request.finalize_fns
        self._buckets: list[Any] = []
        self._arguments: list[Any] = []
        self._results: queue.Queue = queue.Queue()
        if request.async_fn is None:  # this rank has nothing to write
            return
        if hasattr(request, "preload_fn"):  # megatron-core 0.16 copies when it is told to
            transforms, _ = request.async_fn.args  # of the function that would fork
            self._arguments, buckets, self._results = [transforms], request.preload_fn(), request.async_fn_args[2]
        else:  # 0.10 has copied
            buckets, self._results = request.async_fn_args
        storages = {tensor.untyped_storage().data_ptr() for tensor in live}
        self._buckets = [_apart(bucket, storages) for bucket in buckets]

    def write(self) -> None:
        """See `Staged.write`."""
        found = {n: _write_bucket(n, bucket, self._arguments) for n, bucket in enumerate(self._buckets)}
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


def _write_bucket(number: int, bucket: Any, arguments: list[Any]) -> list[Any]:
    """Write one file. Returns where in it everything stands."""
    results: queue.Queue = queue.Queue()
    running: queue.Queue = queue.Queue()
    running.put(number)
    FileSystemWriterAsync.write_preloaded_data(*arguments, number, bucket, results, running, use_fsync=True)
    _, found = results.get_nowait()
    if not isinstance(found, Exception):
        return found
    cause: BaseException | None = found
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__  # torch hides a full disk in a RuntimeError
    raise cause or found
