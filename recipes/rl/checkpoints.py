"""When and where a run is saved, and what of it is trusted on the way back.

`checkpoints/step_NNNNNN/` appears whole or not at all; `latest` names the newest and moves last.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from crossthink.errors import UserError
from crossthink.files import atomic_file, commit_dir, names_full_disk, write_json
from recipes.manifest import verify_manifest, write_manifest
from recipes.rl.spmd import any_rank, is_first_rank

CHECKPOINTS = "checkpoints"
LATEST = "latest"
TRAINER = "trainer.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path

    @property
    def step(self) -> int:
        """The training step after which it was taken."""
        return int(self.folder.name.removeprefix("step_"))

    def trainer_state(self) -> dict[str, Any]:
        """What the loop saved beside the actor: step, prompts, weight version."""
        return json.loads((self.folder / TRAINER).read_text("utf-8"))

    def verify(self) -> None:
        """Check owner and SHA-256 of every file, because torch's metadata is a pickle.

        Raises:
            UserError: a file is missing, changed or somebody else's.
        """
        verify_manifest(self.folder, f"Remove {self.folder} to resume from an earlier one.")


def latest(out: Path) -> Checkpoint | None:
    """The checkpoint that `latest` names, or None where there is none yet.

    Raises:
        UserError: `latest` names a folder that is gone.
    """
    pointer = out / CHECKPOINTS / LATEST
    if not pointer.is_file():
        return None
    folder = out / CHECKPOINTS / pointer.read_text("utf-8").strip()
    if not folder.is_dir():
        raise UserError(f"{pointer} names {folder.name}, which is gone. Write the name of a kept checkpoint into it.")
    return Checkpoint(folder)


class Saves(Protocol):
    """The engines of a run: what a checkpoint is made from."""

    def save(self, folder: Path) -> None: ...


def save(out: Path, step: int, engines: Saves, trainer_state: dict[str, Any], keep: int) -> Checkpoint:
    """Save a checkpoint, atomically; then move `latest` and remove all but the `keep` last. Collective.

    Raises:
        DiskFullError: no space left; earlier checkpoints stay.
    """
    root = out / CHECKPOINTS
    target = root / f"step_{step:06d}"
    aside = root / f".{target.name}.tmp"  # one name on every rank, so no process id in it
    if is_first_rank():
        with names_full_disk(root):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
    dist.barrier()
    try:
        with names_full_disk(target):
            engines.save(aside)
        if is_first_rank():
            write_json(aside / TRAINER, trainer_state)
            write_manifest(aside, {"format": "crossthink-checkpoint", "step": step})
            shutil.rmtree(target, ignore_errors=True)  # left by an attempt that was cut off before `latest` moved
            with names_full_disk(target):
                commit_dir(aside, target)
            with atomic_file(root / LATEST) as handle:
                handle.write(target.name + "\n")
            _prune(root, step, keep)
    finally:
        if is_first_rank():
            shutil.rmtree(aside, ignore_errors=True)
    any_rank(False)  # nobody goes on before rank 0 is done
    return Checkpoint(target)


def _prune(root: Path, newest: int, keep: int) -> None:
    """Remove all but the `keep` last of the checkpoints up to step `newest`.

    Later ones stand there where somebody took the run back by hand; they count for nothing.
    """
    found = [Checkpoint(folder) for folder in root.glob("step_*")]
    for old in sorted((c for c in found if c.step <= newest), key=lambda c: c.step)[:-keep]:
        shutil.rmtree(old.folder)
