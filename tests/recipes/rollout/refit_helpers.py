"""A rollout server that only takes weights, ranks of an actor that sends them, and weights that are checked easily."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import torch
import torch.distributed as dist
from torch import Tensor

from crossthink.procs import die_with_parent, stop
from recipes.rollout.interface import RefitError
from recipes.rollout.refit.checksums import XXH3, checksum
from recipes.rollout.refit.offer import DTYPES, Offer
from recipes.rollout.refit.sender import WeightSender
from recipes.rollout.refit.source import Groups, read
from recipes.rollout.server.identity import machine

ROOT = Path(__file__).parents[3]
BUCKET = 4 * 2**20
LIMIT_S = 60.0
# Larger than a bucket, broadcast directly, packed, without elements, without dimensions; both types.
SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "embed": ("float32", (1500, 1024)),
    "norm": ("bfloat16", (37,)),
    "scale": ("float32", ()),
    "none": ("float32", (0, 3)),
    **{f"layer.{n}.w": ("bfloat16", (600, 1024)) for n in range(6)},
    **{f"layer.{n}.b": ("float32", (1024,)) for n in range(6)},
    "lm_head": ("float32", (1500, 1024)),  # tied: the embedding once more
}


def weights(version: int) -> Iterator[tuple[str, Tensor]]:
    """A set of weights that differs between versions and tensors; `lm_head` is the embedding itself."""
    generator = torch.Generator().manual_seed(version)
    embed: Tensor | None = None
    for name, (dtype, shape) in SHAPES.items():
        tensor = embed if name == "lm_head" else torch.randn(shape, generator=generator).to(DTYPES[dtype])
        assert tensor is not None
        embed = tensor if name == "embed" else embed
        yield name, tensor


def sums(version: int) -> dict[str, int]:
    """What the weights' checksums are."""
    return {name: checksum(tensor, XXH3) for name, tensor in weights(version)}


class Receiver:
    """A server process. It keeps its port when it is started again.

    Args:
        log: where its errors go.
    """

    def __init__(self, log: Path):
        self._log, self.port = log, 0
        self.start()

    def start(self) -> None:
        with open(self._log, "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "receive", str(self.port), str(os.getpid())],
                env=_environment(), stdout=subprocess.PIPE, stderr=out, text=True,
            )  # fmt: skip

    def up(self) -> Receiver:
        """Once it listens."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self._log.read_text()[-3000:]
        self.port = int(line)
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def tell(self, **told: Any) -> None:
        """Have it misbehave in the next refit: `die_after`, `stop_after`, `fail_after` tensors, or `busy`; in a later
        one with `skip`. Or from now on say something else `about` itself."""
        httpx.post(self.url + "/tell", json=told, timeout=LIMIT_S, trust_env=False).raise_for_status()

    def about(self) -> dict[str, Any]:
        """What it says of itself."""
        return httpx.get(self.url + "/v1/refit", timeout=LIMIT_S, trust_env=False).json()

    def state(self) -> dict[str, Any]:
        """`version`, `sums` of its tensors, `in_place`: names whose own memory was written, `groups` joined so far."""
        return httpx.get(self.url + "/state", timeout=LIMIT_S, trust_env=False).json()

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        stop(self.process, grace_s=0)
        if self.process.stdout is not None:
            self.process.stdout.close()


def run_actor(folder: Path, world: int, urls: Sequence[str], **settings: Any) -> list[dict[str, Any]]:
    """Refits 1 and 2 from the ranks of an actor. Returns each rank's `reports`, `passes` and `error`."""
    store = folder / "actor_store"
    words = [str(store), str(world), str(os.getpid()), json.dumps({"urls": list(urls), **settings})]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "act", str(rank), *words],
            env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    try:
        ended = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * world, ended
        return [json.loads(out.splitlines()[-1]) for out, _ in ended]
    finally:
        for rank in ranks:
            stop(rank, grace_s=0)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _act(rank: int, store: str, world: int, settings: dict[str, Any]) -> None:
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world,
        timeout=datetime.timedelta(seconds=LIMIT_S),
    )  # fmt: skip
    passes = 0

    def gathered(version: int) -> Iterator[tuple[str, Tensor]]:
        """As an actor does: every tensor is put together by all ranks."""
        nonlocal passes
        passes += 1
        for name, tensor in weights(version):
            whole = tensor.clone() if rank == world - 1 else torch.empty_like(tensor)
            if whole.numel():
                dist.broadcast(whole, world - 1)
            yield name, whole

    urls = settings.pop("urls")
    sender = WeightSender(urls if rank == 0 else [], bucket_bytes=BUCKET, **settings)
    found: dict[str, Any] = {"reports": [], "error": None}
    try:
        for version in (1, 2):
            found["reports"].append(asdict(sender.refit(lambda version=version: gathered(version), version)))
    except RefitError as error:
        found["error"] = [str(error), error.exit_code]
    print(json.dumps({**found, "passes": passes}))
    sender.close()
    dist.destroy_process_group()


class _Taking:
    """The receiving server's state."""

    def __init__(self) -> None:
        self.about = {
            "engine": "local", "torch": torch.__version__.partition("+")[0], "nccl": None, "backend": "gloo",
            "ranks": 1, "machine": machine(), "weights_dir": "/dev/shm",
        }  # fmt: skip
        self.own = {name: torch.zeros(shape, dtype=DTYPES[dtype]) for name, (dtype, shape) in SHAPES.items()}
        self.own["norm"] = self.own["norm"].float()  # does not fit: arrives as a new tensor
        self.version: int | None = None
        self.in_place: list[str] = []
        self.joined, self.told = Groups(), {}

    def take(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.told.get("skip"):
            self.told["skip"] -= 1
            told: dict[str, Any] = {}
        else:
            told, self.told = self.told, {}
        if told.get("busy"):
            return 409, {"detail": "busy", "version": self.version}
        try:
            offer = Offer.from_json(body)
            reading = read(offer, 0, self.own, self.joined)
        except RefitError as error:
            return 409, {"detail": str(error), "version": self.version}
        self.version, self.in_place = None, []
        try:
            for name, tensor in reading:
                if name not in self.own or tensor.shape != self.own[name].shape:
                    raise RefitError(f"{name}: this model has no such tensor")
                if tensor is self.own[name]:
                    self.in_place.append(name)
                else:
                    self.own[name] = tensor
                self._misbehave(told, reading.tensors)
            if reading.tensors != len(self.own):
                raise RefitError("tensors are missing")
        except RefitError as error:
            return 500, {"detail": str(error), "version": None}
        self.own["norm"] = self.own["norm"].float()
        self.version = offer.version
        done = {"tensors": reading.tensors, "bytes": reading.bytes, "checksum": reading.checksum, "seconds": 0.0}
        return 200, {"version": self.version, **done}

    def _misbehave(self, told: dict[str, Any], taken: int) -> None:
        if taken == told.get("die_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        if taken == told.get("stop_after"):
            # To this thread: another that takes it stops this one later, on a busy machine after the answer.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        if taken == told.get("fail_after"):
            raise RefitError("told to fail")

    def state(self) -> dict[str, Any]:
        found = {name: tensor.bfloat16() if name == "norm" else tensor for name, tensor in self.own.items()}
        return {
            "version": self.version,
            "sums": {name: checksum(tensor, XXH3) for name, tensor in found.items()},
            "in_place": self.in_place,
            "groups": [name for name, _ in self.joined._channels.values()],
        }


def _receive(port: int) -> None:
    torch.set_num_threads(1)
    taking = _Taking()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, taking.about if self.path == "/v1/refit" else taking.state())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/tell":
                taking.about |= body.pop("about", {})
                taking.told = body
                self._send(200, {})
            else:
                self._send(*taking.take(body))

        def _send(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(server.server_address[1], flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Event().wait()


def main() -> None:
    """`receive PORT PARENT`, or `act RANK STORE WORLD PARENT SETTINGS`."""
    kind, number, *rest = sys.argv[1:]
    if kind == "receive":
        die_with_parent(int(rest[0]))
        _receive(int(number))
    else:
        store, world, parent, settings = rest
        die_with_parent(int(parent))
        _act(int(number), store, int(world), json.loads(settings))


if __name__ == "__main__":
    main()
