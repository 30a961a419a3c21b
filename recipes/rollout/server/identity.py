"""What a trainer has to know of this server before it can bring weights."""

from __future__ import annotations

import socket
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from recipes.rollout.interface import ServedEngine

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SHARED_MEMORY = Path("/dev/shm")


class Identity:
    """The facts behind `GET /v1/refit`.

    Args:
        engine: what takes the weights.
        on_gpu: the weights lie in GPU memory.
        weights_dir: folder below which refits by files are read; None: /dev/shm, or the temporary folder without it.

    Attributes:
        start: differs between any two starts of a server.
        weights_dir: as a path.
    """

    def __init__(self, engine: ServedEngine, on_gpu: bool, weights_dir: str | None):
        self._engine, self._on_gpu = engine, on_gpu
        self.start = uuid.uuid4().hex
        shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
        self.weights_dir = shared if weights_dir is None else Path(weights_dir)

    def to_json(self) -> dict[str, Any]:
        """The reply."""
        tensors = self._engine.tensors()
        return {
            "engine": self._engine.name,
            "deterministic": self._engine.deterministic,
            "torch": torch.__version__.partition("+")[0],
            "nccl": nccl_version(),
            "backend": "nccl" if self._on_gpu else "gloo",
            "ranks": self._engine.ranks,
            "machine": machine(),
            "start": self.start,
            "weights_dir": str(self.weights_dir),
            "version": self._engine.version,
            "limits": asdict(self._engine.limits),
            "tensors": None if tensors is None else {k: [dtype, list(shape)] for k, (dtype, shape) in tensors.items()},
        }


def nccl_version() -> str | None:
    """Of the NCCL that torch brings; None where it has none, or no GPU to use it on."""
    if not torch.cuda.is_available():
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def machine() -> str:
    """Equal for two processes that share memory and files: boot id and host name."""
    boot = BOOT_ID.read_text("ascii").strip() if BOOT_ID.is_file() else "unknown"
    return f"{boot} {socket.gethostname()}"
