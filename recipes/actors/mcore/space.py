"""Room on the disk for a checkpoint, asked for before it is written."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from megatron.core.models.gpt import GPTModel

from recipes.actors.mcore.mesh import Mesh
from recipes.spmd import any_rank, gather_json

NOT_THERE = (errno.EOPNOTSUPP, errno.ENOSYS)


def reserve_space(folder: Path, model: GPTModel, mesh: Mesh) -> None:
    """Ask the file system for the checkpoint's bytes at once: torch's writer would hide a full disk in a RuntimeError.

    They are those of the weights and Adam's two moments in float32, once: of one data-parallel copy. Where the file
    system allocates nothing (NFS 3), what all ranks need is compared with what is free. Collective.

    Raises:
        OSError: not enough space; on every rank where one finds so.
    """
    weights_and_adam = 3 * sum(p.numel() * 4 for p in model.parameters()) if mesh.data_rank == 0 else 0
    probe = folder / f".space_{mesh.rank}"
    failure: OSError | None = None
    with open(probe, "wb") as handle:
        try:
            unallocated = 0 if allocate(handle.fileno(), weights_and_adam) else weights_and_adam
        except OSError as error:
            failure, unallocated = error, 0
        # Until every rank has said so, all hold what they were given.
        unallocated = sum(gather_json(unallocated))
        try:
            check_free(handle.fileno(), unallocated)
        except OSError as error:
            failure = failure or error
        failed = any_rank(failure is not None)
        probe.unlink()
    if failed:
        raise failure or OSError(errno.ENOSPC, "another rank found too little space", str(folder))


def allocate(file: int, size: int) -> bool:
    """Allocate so many bytes of a file. Returns False where the file system cannot (NFS 3).

    Not `os.posix_fallocate`, which then writes every one of them.

    Raises:
        OSError: not enough space.
    """
    if size == 0:
        return True
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)  # Linux's
    if fallocate is None:
        return False
    while fallocate(ctypes.c_int(file), ctypes.c_int(0), ctypes.c_int64(0), ctypes.c_int64(size)) != 0:
        code = ctypes.get_errno()
        if code in NOT_THERE:
            return False
        if code != errno.EINTR:  # a signal amid a large one
            raise OSError(code, os.strerror(code))
    return True


def check_free(file: int, size: int) -> None:
    """Look whether a file's file system has so many bytes free.

    Raises:
        OSError: it has not.
    """
    found = os.fstatvfs(file)
    if found.f_bavail * found.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
