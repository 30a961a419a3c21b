"""A process group outside of torch's default one, in which the sender of a refit broadcasts to servers' seats."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroupGloo, Store

POLL_S = 0.0001
"""Pause between two looks at a broadcast under way."""
SLACK_S = 1.0
"""Of torch's limit of a broadcast, beyond ours."""
NCCL_LIMIT = datetime.timedelta(days=8)
"""Torch's limit in NCCL is the group's, and may end the whole process: ours comes first, however long a refit takes."""
NCCL_SETTINGS = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",  # clean up only: its default ends the trainer when a server dies
    "TORCH_NCCL_BLOCKING_WAIT": "0",
}


class ChannelError(Exception):
    """A broadcast did not get through: a process of the group is gone, silent, or has left."""


class Channel:
    """Broadcasts from rank 0 among the processes of one group.

    Args:
        store: where its processes meet; the keys of no other channel stand in it.
        rank: 0 for the sender.
        world: processes.
        backend: gloo or nccl.
        address: of this process, for gloo: the interface on which the others reach it.
        timeout_s: seconds for all to come.

    Raises:
        ChannelError: not all came.
    """

    def __init__(self, store: Store, rank: int, world: int, backend: str, address: str, timeout_s: float):
        self.device = torch.device("cpu" if backend == "gloo" else f"cuda:{torch.cuda.current_device()}")
        self._group: Any = None
        try:
            if backend == "gloo":
                self._group = _gloo(store, rank, world, address, timeout_s)
            else:
                self._group = _nccl(store, rank, world)
            # NCCL connects at the first broadcast, and wants all to be there.
            first = torch.zeros(1, dtype=torch.uint8, device=self.device)
            self.wait(self.broadcast(first, timeout_s), time.monotonic() + timeout_s)
        except ChannelError:
            self.close()
            raise
        except RuntimeError as error:
            raise ChannelError(f"the processes of a refit did not find each other: {first_line(error)}") from error

    def broadcast(self, tensor: Tensor, left_s: float) -> dist.Work:
        """Begin a broadcast of (or into) a contiguous uint8 tensor, which must stay until `wait` returns.

        Raises:
            ChannelError: the group is broken.
        """
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        options.timeout = datetime.timedelta(seconds=max(0.0, left_s) + SLACK_S)
        options.asyncOp = True
        try:
            return self._group.broadcast([tensor], options)
        except RuntimeError as error:
            raise ChannelError(first_line(error)) from error

    def wait(self, work: dist.Work, until: float, look: Callable[[], None] | None = None) -> None:
        """Wait for a broadcast.

        Args:
            work: what `broadcast` gave.
            until: `time.monotonic()` at which it is given up.
            look: called now and then; whatever it raises ends the waiting.

        Raises:
            ChannelError: it failed, or was not through in time.
        """
        while not work.is_completed():
            if time.monotonic() > until:
                raise ChannelError("a broadcast was not through in time")
            if look is not None:
                look()
            time.sleep(POLL_S)
        try:
            work.wait()
        except RuntimeError as error:
            raise ChannelError(first_line(error)) from error

    def close(self) -> None:
        """Leave. What is under way fails, here and on the other processes."""
        group, self._group = self._group, None
        if group is not None and hasattr(group, "abort"):  # gloo has it in later torch; before, its end is enough
            group.abort()


def first_line(error: BaseException) -> str:
    """What an error of torch says, without its stack."""
    return str(error).strip().partition("\n")[0]


def _gloo(store: Store, rank: int, world: int, address: str, timeout_s: float) -> ProcessGroupGloo:
    options = ProcessGroupGloo._Options()
    options._timeout = datetime.timedelta(seconds=timeout_s)
    options._devices = [ProcessGroupGloo.create_device(hostname=address)]
    options._threads = 2
    return ProcessGroupGloo(store, rank, world, options)


def _nccl(store: Store, rank: int, world: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = NCCL_LIMIT
    with _environment(NCCL_SETTINGS):  # read once, by the constructor
        return dist.ProcessGroupNCCL(store, rank, world, options)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
