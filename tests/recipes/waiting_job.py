"""A rank of test_waiting.py: what is done while others wait in a collective, longer than a collective may take."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import errno
import json
import os
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from crossthink.errors import StoppedEarly, UserError
from recipes import spmd
from recipes.actors.mcore.space import reserve_space
from recipes.rl import checkpoints, loop, pending, saver
from recipes.rl.pending import PendingRollout
from recipes.rl.saver import Saver
from recipes.signs_of_life import ALIVE_FD

COLLECTIVE_S, WORK_S, HEARD_S = 8.0, 12.0, 0.5
MODEL = torch.nn.Linear(512, 512, bias=False)  # 3 MiB with Adam's moments
LIMIT = 2**20


class Judge:
    def score(self, items):
        raise AssertionError("nothing was generated")


class SlowEngine:
    def stream(self, requests, params):
        time.sleep(WORK_S)
        raise StoppedEarly("no server left")
        yield


class Engines:
    def stage(self, folder):
        return []


def slowly(value):
    time.sleep(WORK_S)
    return value


def with_signs(function):
    """What it returns, and how many signs of life a watcher would have had meanwhile."""
    reads, writes = os.pipe()
    os.environ[ALIVE_FD] = str(writes)
    try:
        value = function()
    finally:
        del os.environ[ALIVE_FD]
        os.close(writes)
    with open(reads, "rb") as pipe:
        return value, len(pipe.read())


def failing():
    raise StoppedEarly("late")


def failure_of(function):
    try:
        function()
    except UserError as error:
        return [str(error), error.exit_code]
    except OSError as error:
        return error.errno
    return None


def rollout():
    under_way = PendingRollout(SlowEngine(), Judge(), None, [], 1, None, False)
    under_way.wait()
    return under_way.failed()


def save(out: Path):
    under_way = Saver(out, Engines(), keep=1, asynchronous=True)
    under_way.save(1, {"step": 1}, wait=True)
    return (out / "checkpoints" / "latest").read_text().strip()


def check(out: Path):
    checkpoints.verify_manifest = lambda *words: time.sleep(4 * HEARD_S)
    return checkpoints.newest_whole(out).folder.name


def evaluation_unwritten(out: Path, rank: int):
    """The loop with stubs for engines, where the first rank cannot write what the evaluation after step 1 found."""
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    feed = SimpleNamespace(
        collect=lambda *words: (None, {}), trained=lambda *words: None, freshen=lambda step: None, state=dict
    )
    loop.make_feed = lambda *words: feed
    loop.update = lambda *words: ([], {"mismatch": None, "seconds": {}})
    loop.speed = lambda *words: {}
    loop.room_for_rollouts = lambda *words: contextlib.nullcontext()
    records = SimpleNamespace(step=lambda *words: None, evaluation=lambda summary: summary["step"] and failing())
    parts = SimpleNamespace(
        engine=SimpleNamespace(refit=lambda *words, version: None), actor=SimpleNamespace(weights=None),
        evaluate=lambda step: {"step": step}, records=records if rank == 0 else None, progress=None,
        stage=lambda folder: [],
    )  # fmt: skip
    config = SimpleNamespace(
        out=str(out), steps=3, rollout=SimpleNamespace(max_mismatch=None), eval=SimpleNamespace(every=1),
        optimizer=SimpleNamespace(max_skipped=1),
        checkpoint=SimpleNamespace(best=None, keep=2, asynchronous=False, margin_s=None, every=2),
    )  # fmt: skip
    stop = SimpleNamespace(requested=False)
    trace = SimpleNamespace(begin=lambda step: None, end=lambda step: None)
    said = failure_of(lambda: loop._train(config, parts, 0, {}, stop, trace))
    return {"said": said, "saved": (out / "checkpoints" / "latest").read_text().strip()}


def space(folder: Path, rank: int, data_rank: int):
    """Rank 1 may write files of 1 MiB only, so its share is more than there is room for."""
    folder.mkdir(exist_ok=True)
    dist.barrier()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        mesh = SimpleNamespace(rank=rank, data_rank=data_rank)
        return failure_of(lambda: reserve_space(folder, MODEL, mesh))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        dist.barrier()
        assert not list(folder.iterdir())


def space_on_nfs(folder: Path, rank: int, data_rank: int):
    """A file system without fallocate, with room for one share and a half."""
    folder.mkdir(exist_ok=True)
    cdll, fstatvfs = ctypes.CDLL, os.fstatvfs
    ctypes.CDLL = lambda *words, **settings: SimpleNamespace()
    os.fstatvfs = lambda file: SimpleNamespace(f_bavail=3 * 512 * 512 * 4 * 3 // 2, f_frsize=1)
    try:
        return failure_of(lambda: reserve_space(folder, MODEL, SimpleNamespace(rank=rank, data_rank=data_rank)))
    finally:
        ctypes.CDLL, os.fstatvfs = cdll, fstatvfs


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    dist.barrier()  # one may have begun much later than the other
    _set_pg_timeout(datetime.timedelta(seconds=COLLECTIVE_S))
    for module in (spmd, pending, saver):
        module.HEARD_S = HEARD_S
    made, commit = [], checkpoints.commit
    checkpoints.commit = lambda *words: slowly(None) or commit(*words)
    found = {
        "value": with_signs(lambda: spmd.from_first_rank(lambda: made.append(1) or slowly("made"))),
        "made": len(made),
        "failure": failure_of(lambda: spmd.from_first_rank(failing)),
        "rollout_failed": rollout(),
        "saved": with_signs(lambda: save(folder / "run")),
        "checked": with_signs(lambda: check(folder / "run")),
        "evaluation_unwritten": evaluation_unwritten(folder / "loop", rank),
        "copy_needs_no_room": space(folder / "space", rank, data_rank=rank),
        "one_rank_without_room": space(folder / "space", rank, data_rank=0),
        "one_share_fits_on_nfs": space_on_nfs(folder / "nfs", rank, data_rank=rank),
        "two_shares_on_nfs": space_on_nfs(folder / "nfs", rank, data_rank=0),
        "no_space": errno.EFBIG if rank == 1 else errno.ENOSPC,
    }
    (folder / f"found_{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
