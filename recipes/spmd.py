"""What ranks tell each other besides tensors: JSON values, never pickles."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from crossthink.errors import UserError
from recipes.signs_of_life import beat
from recipes.work import Work

HEARD_S = 30.0
"""Seconds between two words of a rank to those that wait for it in a collective, which may not take much longer."""


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def is_first_rank() -> bool:
    """Whether this is the rank that writes files and talks HTTP."""
    return dist.get_rank() == 0


def broadcast_json(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if dist.get_world_size() == 1:
        return value
    data = json.dumps(value).encode() if is_first_rank() else b""
    size = torch.tensor([len(data)], device=_device())
    dist.broadcast(size, 0)
    payload = _bytes_tensor(data) if is_first_rank() else torch.empty(int(size), dtype=torch.uint8, device=_device())
    dist.broadcast(payload, 0)
    return json.loads(bytes(payload.cpu().numpy()))


def from_first_rank(made: Callable[[], Any], *, bounded: bool = True) -> Any:
    """What `made` returns on rank 0, on every rank. A UserError there is raised on every rank, with its exit code.

    However long it takes: it is made in a thread, and the others hear of rank 0 every `HEARD_S` seconds. Whatever else
    it raises is rank 0's, and ends the others by the process group's own limit.

    Args:
        bounded: `made` has a time limit of its own. Else nobody beats meanwhile, so that watchers end what is stuck.
    """
    if dist.get_world_size() == 1:
        return made()
    values: list[Any] = []
    work = Work(lambda: values.append(made()), "first rank") if is_first_rank() else None
    while (answer := broadcast_json(_so_far(work, values))) is None:
        if bounded:
            beat()
    if "failure" in answer:
        raise _failure(work, answer)
    return answer["value"]


def _so_far(work: Work | None, values: list[Any]) -> dict[str, Any] | None:
    """What the first rank tells: value or failure, or None where it has neither after `HEARD_S`."""
    if work is None or not work.wait(HEARD_S):
        return None
    if isinstance(work.error, UserError):
        return _told(work.error)
    if work.error is not None:
        raise work.error
    return {"value": values[0]}


def _failure(work: Work | None, answer: dict[str, Any]) -> BaseException:
    """The first rank's own error there, one like it elsewhere."""
    if work is not None and work.error is not None:
        return work.error
    return _like(answer)


def any_failure(error: UserError | None) -> UserError | None:
    """This rank's own failure, else one like that of the first rank that has one. Collective."""
    told = gather_json(None if error is None else _told(error))
    return error or next((_like(one) for one in told if one is not None), None)


def _told(error: UserError) -> dict[str, Any]:
    return {"failure": str(error), "exit_code": error.exit_code}


def _like(told: dict[str, Any]) -> UserError:
    error = UserError(told["failure"])
    error.exit_code = told["exit_code"]
    return error


def gather_json(value: Any) -> list[Any]:
    """Every rank's value in rank order, on every rank."""
    if dist.get_world_size() == 1:
        return [value]
    data = _bytes_tensor(json.dumps(value).encode())
    sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(data)], device=_device()))
    widest = max(int(size) for size in sizes)
    padded = torch.zeros(widest, dtype=torch.uint8, device=_device())
    padded[: len(data)] = data
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [json.loads(bytes(p[: int(n)].cpu().numpy())) for p, n in zip(parts, sizes, strict=True)]


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank, on every rank."""
    votes = torch.tensor([int(flag)], device=_device())
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def _bytes_tensor(data: bytes) -> torch.Tensor:
    return (
        torch.frombuffer(bytearray(data), dtype=torch.uint8).to(_device())
        if data
        else torch.empty(0, dtype=torch.uint8)
    )
