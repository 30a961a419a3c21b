"""Weights as safetensors in a folder that trainer and server both see: whole or absent, checked, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
import sys
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossthink.files import names_full_disk, write_json
from recipes.models.weights import SafetensorsWriter, TensorPlan
from recipes.rollout.interface import RefitError
from recipes.rollout.refit.checksums import check_sums, checksum, digest, read_sums, show_sums
from recipes.rollout.refit.collective import fits
from recipes.rollout.refit.offer import Offer, TensorSpec, check_spec, read_spec, spec_of

PREFIX = "crossthink-refit-"
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 64 * 2**20
IN_FLIGHT = 2
"""Shards that are being written at most; their tensors stay in memory."""


class FilesWriter:
    """The sender's end of one refit: shards of at most `bucket_bytes`, then the manifest. Call `remove` at the end.

    Args:
        weights_dir: where the folder is made; folders there whose trainer has ended without removing them are removed.
        bucket_bytes: largest shard; a larger tensor is a shard of its own.
        kind: of the checksums.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, weights_dir: Path, bucket_bytes: int, kind: str):
        remove_abandoned(weights_dir)
        self.folder = weights_dir / f"{PREFIX}{_owner(os.getpid())}-{secrets.token_hex(16)}"
        self.folder.mkdir(mode=0o700)
        self._bucket_bytes, self._kind = bucket_bytes, kind
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="refit-files")
        self._flight: deque[Future[None]] = deque()
        self._pending: list[tuple[TensorPlan, Tensor]] = []
        self._pending_bytes = 0
        self._shards: dict[str, list[TensorSpec]] = {}

    def send(self, name: str, tensor: Tensor) -> None:
        """Queue a contiguous tensor, on any device. It must keep its values until `finish`.

        Raises:
            OSError, DiskFullError: a shard could not be written.
        """
        plan = TensorPlan(name, tuple(tensor.shape), tensor.dtype)
        if self._pending and self._pending_bytes + plan.bytes > self._bucket_bytes:
            self._flush()
        self._pending.append((plan, tensor))
        self._pending_bytes += plan.bytes

    def finish(self, sums: Mapping[str, int]) -> None:
        """Write what is left, and the manifest, with which the folder is whole.

        Raises:
            OSError, DiskFullError: as `send`.
        """
        self._flush()
        while self._flight:
            self._flight.popleft().result()
        shards = {file: [list(spec) for spec in specs] for file, specs in self._shards.items()}
        write_json(self.folder / MANIFEST, {"checksum": self._kind, "shards": shards, "sums": show_sums(sums)})

    def remove(self) -> None:
        """Remove the folder, whatever has become of the refit. Servers that read it keep what they have open."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _flush(self) -> None:
        if not self._pending:
            return
        while len(self._flight) >= IN_FLIGHT:
            self._flight.popleft().result()
        file = f"shard-{len(self._shards):05d}.safetensors"
        self._shards[file] = [spec_of(plan.name, tensor) for plan, tensor in self._pending]
        self._flight.append(self._thread.submit(_write_shard, self.folder / file, self._pending))
        self._pending, self._pending_bytes = [], 0


class FilesReader:
    """A seat's end of one refit. What the folder holds is checked, all of it, before anything is taken over.

    Args:
        offer: names the folder and what is announced.
        into: the engine's own tensors by name; those that fit are written in place.

    Raises:
        RefitError: the folder is none of a trainer's, or a file, a tensor or a checksum in it is not as announced.
    """

    def __init__(self, offer: Offer, into: Mapping[str, Tensor]):
        self._into = into
        assert offer.folder is not None
        self._folder = Path(offer.folder)
        _check_folder(self._folder)
        manifest = _read_manifest(self._folder / MANIFEST)
        wanted = None if offer.tensors is None else {spec[0]: spec for spec in offer.tensors}
        self._shards: dict[str, list[TensorSpec]] = {}
        found: dict[str, int] = {}
        for file, entries in manifest["shards"].items():
            if file in (MANIFEST, "", ".", "..") or "/" in file or "\0" in file:
                raise RefitError(f"{self._folder / MANIFEST}: {file!r} is no name of a shard.")
            self._shards[file] = [read_spec(entry) for entry in entries]
            for spec, tensor in self._tensors(file):
                check_spec(spec, wanted)
                found[spec[0]] = checksum(tensor, offer.checksum)
        if wanted is not None and (missing := wanted.keys() - found.keys()):
            raise RefitError(f"{self._folder}: {min(missing)} was announced and is not there.")
        check_sums(found, read_sums(manifest["sums"]))
        self._digest = digest(found)

    def read(self) -> Generator[tuple[str, Tensor], None, str]:
        """(name, tensor), each the engine's own where it fits, else a new one. Returns the checksum of the set."""
        for file in self._shards:
            for spec, tensor in self._tensors(file):
                own = self._into.get(spec[0])
                if own is None or not fits(own, spec):
                    yield spec[0], tensor.clone()
                    continue
                own.detach().copy_(tensor)
                yield spec[0], own
        return self._digest

    def _tensors(self, file: str) -> Generator[tuple[TensorSpec, Tensor], None, None]:
        """What the manifest says of a shard, and the tensor in the file, which is mapped and not in memory."""
        path = self._folder / file
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise RefitError(f"{path} is no plain file.")
            with safe_open(path, framework="pt") as handle:
                for spec in self._shards[file]:
                    tensor = handle.get_tensor(spec[0])
                    check_spec(spec_of(spec[0], tensor), {spec[0]: spec})
                    yield spec, tensor
        except (SafetensorError, OSError) as error:
            raise RefitError(f"{path} cannot be read as safetensors: {error}") from error


def remove_abandoned(weights_dir: Path) -> None:
    """Remove folders of trainers of this user and machine that have ended; says so."""
    if not weights_dir.is_dir():
        return
    for folder in sorted(weights_dir.glob(PREFIX + "*")):
        owner = folder.name.removeprefix(PREFIX).rpartition("-")[0]
        machine, _, process = owner.partition("-")
        pid = process.partition("-")[0]
        if machine != _machine() or not pid.isdigit() or folder.is_symlink() or not folder.is_dir():
            continue
        if folder.stat().st_uid == os.getuid() and _owner(int(pid)) != owner:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"crossthink: removed {folder}, left by a trainer that has ended", file=sys.stderr, flush=True)


def _write_shard(path: Path, tensors: list[tuple[TensorPlan, Tensor]]) -> None:
    with names_full_disk(path), SafetensorsWriter(path, [plan for plan, _ in tensors]) as writer:
        for _, tensor in tensors:
            writer.write(tensor)


def _check_folder(folder: Path) -> None:
    if not folder.is_absolute() or not folder.name.startswith(PREFIX) or folder.is_symlink() or not folder.is_dir():
        raise RefitError(f"folder: {folder} is no folder of a trainer, {PREFIX}…, that this server can see.")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.stat().st_size > MOST_MANIFEST_BYTES:
            raise RefitError(f"{path} is no plain file of at most {MOST_MANIFEST_BYTES} bytes.")
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RefitError(f"{path} cannot be read: {error}") from error
    shards = manifest.get("shards") if isinstance(manifest, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(one, list) for one in shards.values()):
        raise RefitError(f"{path}: shards is no object of lists.")
    return {"shards": shards, "sums": manifest.get("sums")}


def _owner(pid: int) -> str:
    """Of a process: differs from every other's, on this machine and others, also of those that had its id before."""
    path = Path(f"/proc/{pid}/stat")
    try:
        started = path.read_text("ascii", errors="replace").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        started = "gone"
    return f"{_machine()}-{pid}-{started}"


def _machine() -> str:
    """Equal for processes that see each other's process ids; without a dash."""
    space = Path("/proc/self/ns/pid")
    number = space.stat().st_ino if space.exists() else 0
    return hashlib.sha256(f"{socket.gethostname()} {number}".encode()).hexdigest()[:12]
