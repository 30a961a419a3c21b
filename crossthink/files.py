"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from crossthink.errors import UserError

# RLIMIT_FSIZE and quotas answer with other codes than a full disk, and mean the same to the user.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(UserError):
    """No space left for a file; what was begun is removed, what was there before is kept."""


@contextlib.contextmanager
def names_full_disk(path: Path | str) -> Iterator[None]:
    """Turn "no space left" inside the block into a `DiskFullError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise DiskFullError(
            f"No space left to write {path} ({error.strerror}). Nothing half-written was kept. Free some space or "
            "choose another out=, then run the command again (with resume=true, if the command has that key)."
        ) from error


def fsync_dir(path: Path | str) -> None:
    """Make a rename inside `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its name when the block ends well, and vanishes otherwise."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with names_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, mode, encoding=None if "b" in mode else "utf-8") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(aside, path)
            fsync_dir(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yield a folder beside `path` that takes its name when the block ends well, and vanishes otherwise.

    Every file in it is fsynced before the rename. `path` must not exist.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with names_full_disk(path):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            commit_dir(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def commit_dir(aside: Path, path: Path) -> None:
    """fsync everything below `aside` and rename it to `path`."""
    for folder, _, names in os.walk(aside):
        for name in names:
            with open(Path(folder) / name, "rb") as handle:
                os.fsync(handle.fileno())
        fsync_dir(folder)
    os.rename(aside, path)
    fsync_dir(path.parent)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(handle)


def _digest(handle: IO[bytes]) -> str:  # hashlib.file_digest is new in Python 3.11
    digest = hashlib.sha256()
    while block := handle.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
