"""Where a run's checkpoints are, and what of them is trusted on the way back.

`checkpoints/step_NNNNNN/` appears whole or not at all; `latest` names the newest and moves last.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossthink.errors import ConfigError, UserError
from crossthink.files import atomic_file, commit_dir, names_full_disk, write_json
from recipes.manifest import DamagedError, verify_manifest, write_manifest
from recipes.rl.retention import BEST, STEP_NAME, prune
from recipes.run_files import CHECKPOINTS, LATEST
from recipes.spmd import from_first_rank

TRAINER = "trainer.json"
READY = "ready"
"""Key of the trainer's state: rollouts already made for the next step, as JSON text. They get a file of their own."""
READY_FILE = "rollouts.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path

    @property
    def step(self) -> int:
        """The training step after which it was taken."""
        return int(self.folder.name.removeprefix("step_"))

    def trainer_state(self) -> dict[str, Any]:
        """What the loop saved beside the actor: step, prompts, and `READY` where there are rollouts."""
        state = json.loads((self.folder / TRAINER).read_text("utf-8"))
        made = self.folder / READY_FILE
        return state | ({READY: made.read_text("utf-8")} if made.is_file() else {})

    def verify(self) -> None:
        """Check owner and SHA-256 of every file, because torch's metadata is a pickle.

        Raises:
            DamagedError: a file is missing or changed.
            UserError: one of them, or a folder that it lies in, is somebody else's.
        """
        verify_manifest(self.folder, "Choose another checkpoint of the run.")


def latest(out: Path) -> Checkpoint | None:
    """The checkpoint that `latest` names, or None where there is none yet.

    Raises:
        UserError: `latest` names a folder that is gone.
    """
    pointer = out / CHECKPOINTS / LATEST
    return named_by(pointer) if pointer.is_file() else None


def named_by(pointer: Path) -> Checkpoint:
    """The checkpoint that `latest` or `best` names.

    Raises:
        UserError: it is gone.
    """
    name = _read(pointer)
    if not STEP_NAME.fullmatch(name) or not (pointer.parent / name).is_dir():
        raise UserError(f"{pointer} names {name}, which is gone. Write the name of a kept checkpoint into it.")
    return Checkpoint(pointer.parent / name)


def is_finished(out: Path, steps: int) -> bool:
    """Whether `latest` names a whole checkpoint of step `steps` or later.

    Raises:
        UserError: it is somebody else's.
    """
    pointer = out / CHECKPOINTS / LATEST
    name = _read(pointer) if pointer.is_file() else ""
    if not STEP_NAME.fullmatch(name) or Checkpoint(pointer.parent / name).step < steps:
        return False
    try:
        Checkpoint(pointer.parent / name).verify()
    except DamagedError:
        return False
    return True


def newest_whole(out: Path) -> Checkpoint | None:
    """What a run goes on from: the checkpoint that `latest` names, else the newest earlier one that is whole.

    Where it is not the one that `latest` names, a line on stderr names both and says why. Rank 0 looks. Collective.

    Returns:
        None where nothing was saved yet.

    Raises:
        UserError: none is whole, or they are somebody else's.
    """

    def look() -> str | None:
        checkpoint = _newest_whole(out)
        return checkpoint.folder.name if checkpoint else None

    name = from_first_rank(look, bounded=False)  # it hashes, and storage may hang
    return Checkpoint(out / CHECKPOINTS / name) if name else None


def _newest_whole(out: Path) -> Checkpoint | None:
    root = out / CHECKPOINTS
    if not (root / LATEST).is_file():
        return None
    name = _read(root / LATEST)
    reasons = []
    for checkpoint in _candidates(root, name):
        try:
            checkpoint.verify()
        except DamagedError as error:
            reasons.append(str(error))
            continue
        if checkpoint.folder.name != name:
            why = reasons[0] if reasons else f"{root / LATEST} names {name!r}, which is no checkpoint."
            print(
                f"crossthink: WARNING: the newest checkpoint, {root / name}, is damaged: {why} Going on from "
                f"{checkpoint.folder}; the steps after it are made again.",
                file=sys.stderr,
                flush=True,
            )
        return checkpoint
    raise UserError(
        f"No checkpoint in {root} is whole: {' '.join(reasons) or f'{LATEST} names {name!r}.'} Start a new run in "
        "another out=."
    )


def _candidates(root: Path, name: str) -> list[Checkpoint]:
    """The checkpoint called `name`, then those before it, newest first; all of them where there is no such name."""
    earlier = [Checkpoint(folder) for folder in root.glob("step_*") if STEP_NAME.fullmatch(folder.name)]
    newest_first = sorted(earlier, key=lambda c: c.step, reverse=True)
    if not STEP_NAME.fullmatch(name):
        return newest_first
    named = Checkpoint(root / name)
    return [named, *(c for c in newest_first if c.step < named.step)]


def _read(pointer: Path) -> str:
    return pointer.read_text("utf-8", errors="replace").strip()


def find_pointed(path: Path) -> Path | None:
    """The checkpoint's folder where `path` is a run's `checkpoints/best` or `checkpoints/latest`, else None.

    Raises:
        ConfigError: a run's `best` is asked for and it has none.
        UserError: the checkpoint is gone.
    """
    if path.parent.name != CHECKPOINTS or path.name not in (BEST, LATEST):
        return None
    if not path.is_file():
        raise ConfigError(f"checkpoint={path}: the run has saved no {path.name} checkpoint yet.")
    return named_by(path).folder


def clear_unfinished(out: Path) -> None:
    """Remove what a run that was killed while it saved has left aside."""
    for aside in (out / CHECKPOINTS).glob(".*.tmp"):
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()


def paths(out: Path, step: int) -> tuple[Path, Path]:
    """The folder of the checkpoint of `step`, and where it is written before it is whole."""
    target = out / CHECKPOINTS / f"step_{step:06d}"
    return target, target.with_name(f".{target.name}.tmp")  # one name on every rank, so no process id in it


def begin(aside: Path) -> None:
    """Make the empty folder that engines write into.

    Raises:
        DiskFullError: no space left.
    """
    with names_full_disk(aside.parent):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)


def commit(aside: Path, target: Path, trainer_state: dict[str, Any], keep: int) -> None:
    """Turn what the engines wrote into a checkpoint; then move `best`, if this is it, and `latest`, and prune.

    Raises:
        DiskFullError: no space left; earlier checkpoints stay.
    """
    step = trainer_state["step"]
    write_json(aside / TRAINER, {key: value for key, value in trainer_state.items() if key != READY})
    if trainer_state.get(READY) is not None:
        with names_full_disk(target):
            (aside / READY_FILE).write_text(trainer_state[READY], "utf-8")
    write_manifest(aside, {"format": "crossthink-checkpoint", "step": step})
    shutil.rmtree(target, ignore_errors=True)  # left by an attempt that was cut off before `latest` moved
    with names_full_disk(target):
        commit_dir(aside, target)
    # `best` before `latest`: a run that is killed in between makes this step again, and moves both again.
    is_best = (trainer_state.get("best") or {}).get("step") == step
    for pointer in (BEST, LATEST) if is_best else (LATEST,):
        with atomic_file(target.parent / pointer) as handle:
            handle.write(target.name + "\n")
    prune(target.parent, step, keep)
