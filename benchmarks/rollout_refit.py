"""Part `refit` of `benchmarks/rollout.py`: bytes/s into a rollout server, against a raw broadcast of the same bytes.

The server is `crossthink serve-rollout` in a process of its own. The broadcast is what could at best be had: every
tensor in place on both sides, nothing checked, no HTTP, two gloo processes of this file.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from rollout_processes import rollout_server
from step_workers import Model, model_folder

HERE = Path(__file__).parent
MODEL = Model("131 M", 1024, 2816, 11)
LAYOUTS = ((1, 1), (2, 2))  # tensor × pipeline
TARGET = 0.8
LIMIT_S = 600.0


def run(turns: int) -> bool:
    """Print the table. True where the target is reached."""
    with model_folder(MODEL) as folder, rollout_server(folder, "weights=refit", "threads=1") as url:
        rows = [actor(tensor, pipeline, folder, url, turns) for tensor, pipeline in LAYOUTS]
    raw, size = rows[0]["raw"], rows[0]["bytes"]
    print(f"{size / 1e6:.0f} MB of float32 weights; medians of {turns} turns.\n")
    print("| | seconds | GB/s | of the broadcast |\n|---|---|---|---|")
    print_row("raw broadcast, two processes", raw, size, raw)
    for (tensor, pipeline), row in zip(LAYOUTS, rows, strict=True):
        for transport in ("collective", "files"):
            print_row(f"{transport}, actor TP{tensor} × PP{pipeline}", row[transport], size, raw)
    share = raw / rows[0]["collective"]
    print(f"\nCollective from TP1: {share:.2f} of the broadcast; {TARGET} is the target.\n", flush=True)
    return share >= TARGET


def print_row(name: str, seconds: float, size: int, raw: float) -> None:
    """A line of the table."""
    print(f"| {name} | {seconds:.3f} | {size / seconds / 1e9:.2f} | {raw / seconds:.2f} |", flush=True)


def actor(tensor: int, pipeline: int, folder: Path, url: str, turns: int) -> dict[str, float]:
    """Run an actor of that layout. Returns its bytes, and median seconds by transport; of one process also `raw`."""
    from crossthink.procs import free_port

    world = tensor * pipeline
    environment = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    words = [sys.executable, str(HERE / "rollout_refit.py"), str(tensor), str(pipeline), str(folder), url, str(turns)]
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(world):
            process = subprocess.Popen(
                words,
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            ranks.append(process)
        out = ranks[0].communicate(timeout=LIMIT_S)[0]
        if ranks[0].returncode:
            raise RuntimeError(f"the actor of TP{tensor} × PP{pipeline} ended with {ranks[0].returncode}")
    return json.loads(out.splitlines()[-1])


def rank_main(tensor: int, pipeline: int, folder: Path, url: str, turns: int) -> None:
    """A rank: refit by both transports and, alone, broadcast, in turns; print the medians."""
    import torch

    from conf.rollout import RolloutConfig
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.actors.stack import prepare_stack
    from recipes.rollout.refit.sender import WeightSender

    torch.set_num_threads(1)
    prepare_stack()
    mesh = join_mesh(tensor, pipeline)
    weights = megatron_weights(folder, mesh)
    bucket = int(RolloutConfig.bucket_mb * 2**20)
    senders = {
        name: WeightSender([url], transport=name, bucket_bytes=bucket, deadline_s=LIMIT_S)
        for name in ("collective", "files")
    }
    found: dict[str, list[float]] = {name: [] for name in (*senders, "raw")}
    size = 0
    shapes = [list(value.shape) for _, value in weights()]
    with raw_receiver(folder, shapes) if mesh.world == 1 else contextlib.nullcontext() as group:
        for turn in range(turns + 1):
            for name, sender in senders.items():
                torch.distributed.barrier()
                began = time.perf_counter()
                size = sender.refit(weights, version=turn).bytes
                if turn:
                    found[name].append(time.perf_counter() - began)
            if group is not None:
                seconds = broadcast_all(group, [value for _, value in weights()])
                if turn:
                    found["raw"].append(seconds)
    for sender in senders.values():
        sender.close()
    if mesh.rank == 0:
        print(json.dumps({name: statistics.median(one) for name, one in found.items() if one} | {"bytes": size}))
    leave_mesh()


def megatron_weights(folder: Path, mesh: Any) -> Any:
    """`weights` of an actor as training has it."""
    from conf.actor import ActorConfig, OptimizerConfig
    from recipes.actors.megatron.actor import MegatronActor
    from recipes.models.tokenizer import load_tokenizer

    settings = ActorConfig(tensor_parallel=mesh.tensor, pipeline_parallel=mesh.pipeline)
    actor = MegatronActor(
        folder, mesh, OptimizerConfig(), vocabulary=len(load_tokenizer(folder)), pad_id=0, temperature=1.0,
        micro_batch_tokens=1024, seed=0, with_reference=False, settings=settings,
    )  # fmt: skip
    return actor.weights


@contextlib.contextmanager
def raw_receiver(folder: Path, shapes: list[list[int]]) -> Iterator[Any]:
    """A process with tensors of these shapes, and the gloo group of this process and that one."""
    store = os.path.join(folder, "raw_store")
    words = [sys.executable, str(HERE / "rollout_refit.py"), "receive", json.dumps(shapes), store]
    process = subprocess.Popen(words, stdout=sys.stderr)
    try:
        yield gloo(store, 0)
    finally:
        process.kill()
        process.wait()


def receive(shapes: list[list[int]], store: str) -> None:
    """The other side of the raw broadcast, until it is ended."""
    import torch

    torch.set_num_threads(1)
    tensors = [torch.zeros(shape) for shape in shapes]
    group = gloo(store, 1)
    while True:
        broadcast_all(group, tensors)


def gloo(store: str, rank: int) -> Any:
    """A gloo group of two processes, beside torch's default one."""
    import torch.distributed as dist

    return dist.ProcessGroupGloo(dist.FileStore(store, 2), rank, 2, datetime.timedelta(seconds=LIMIT_S))


def broadcast_all(group: Any, tensors: list[Any]) -> float:
    """Seconds from when both sides are there until rank 0's tensors are on the other side."""
    import torch
    import torch.distributed as dist

    options = dist.BroadcastOptions()
    options.rootRank = options.rootTensor = 0
    group.barrier().wait()
    began = time.perf_counter()
    for tensor in tensors:
        group.broadcast([tensor.view(-1).view(torch.uint8)], options).wait()
    group.barrier().wait()
    return time.perf_counter() - began


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(json.loads(sys.argv[2]), sys.argv[3])
    else:
        rank_main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
