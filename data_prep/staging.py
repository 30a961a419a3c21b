"""Where an unfinished pool stands: beside its folder, one finished source after another, until it is renamed.

A killed run leaves its finished sources there; the same command takes them up again. Used by one process at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from crossthink.errors import ConfigError
from crossthink.files import NO_SPACE, commit_dir, names_full_disk, write_json

LOCK = ".lock"
SUFFIX = ".unfinished"


class Staging:
    """The folder of one unfinished pool.

    Attributes:
        folder: it.
        finished: the sources whose rows stand in it, in order: name to what `finish` was given.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._chains: dict[str, str] = {}
        self.finished: dict[str, dict[str, Any]] = {}

    def take_up(self, run: str, sources: Mapping[str, str]) -> None:
        """Fill `finished` with what an earlier run left and still fits; remove everything else.

        A source fits when it and every source before it had the same identity: what a source keeps depends on the
        sources before it.

        Args:
            run: what the whole run does, as text.
            sources: the run's sources in order, each with its own identity as text.
        """
        chain, fits = hashlib.sha256(run.encode()), True
        for source, identity in sources.items():
            chain.update(identity.encode())
            self._chains[source] = chain.hexdigest()
            record = self.folder / _record(source)
            saved = json.loads(record.read_text("utf-8")) if fits and record.is_file() else None
            fits = saved is not None and saved["chain"] == self._chains[source]
            if saved is not None and fits:
                self.finished[source] = saved["facts"]
        mine = {
            LOCK,
            *(name for source in self.finished for name in (_record(source), *self.finished[source]["files"])),
        }
        for path in self.folder.iterdir():
            if path.name not in mine:
                remove(path)

    @contextlib.contextmanager
    def scratch(self, source: str) -> Iterator[Path]:
        """An empty folder for what a source needs while it is being made."""
        path = self.folder / f".{source}.blocks"
        path.mkdir()
        try:
            yield path
        finally:
            remove(path)

    def finish(self, source: str, facts: dict[str, Any]) -> None:
        """Mark a source finished. `facts` is JSON-ready; its `files` are the source's files in the folder."""
        write_json(self.folder / _record(source), {"chain": self._chains[source], "facts": facts})
        self.finished[source] = facts

    def commit(self, out: Path) -> None:
        """Give the folder its final name, without what only an unfinished pool needs."""
        for path in self.folder.iterdir():
            if path.name.startswith("."):
                remove(path)
        commit_dir(self.folder, out)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def staging_folder(out: Path) -> Path:
    """Where the unfinished pool of `out` stands."""
    return out.with_name(f".{out.name}{SUFFIX}")


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Staging]:
    """Hold the unfinished pool of `out`. Ends with nothing left of it, unless sources in it are finished.

    Args:
        out: the pool's folder, which must not exist.

    Raises:
        ConfigError: another process is making this pool or has just made it, or no folder can be made there.
        DiskFullError: no space; finished sources are kept.
    """
    folder = staging_folder(out)
    with names_full_disk(out):
        _make_folder(folder, out)
        with open(folder / LOCK, "w") as handle:
            if not _lock(handle, folder / LOCK):
                raise ConfigError(f"out={out} is in use by another process. Wait for it or choose another out=.")
            try:
                if out.exists():
                    raise ConfigError(f"out={out} already exists, and a pool is written once. Choose another out=.")
                yield Staging(folder)
            finally:
                # By the files: a run that stopped before it took anything up must not remove what was there.
                if folder.is_dir() and not any(folder.glob(_record("*"))):
                    shutil.rmtree(folder)


def _make_folder(folder: Path, out: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ConfigError(
            f"out={out}: no folder can be made there ({error.strerror}: {error.filename}). Choose another out=."
        ) from error


def _lock(handle: IO[str], path: Path) -> bool:
    """Take the lock. False where another process has it, or had it and removed it after `handle` was opened."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _record(source: str) -> str:
    return f".{source}.finished.json"
