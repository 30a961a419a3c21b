"""A run folder: made once for one config, continued only with `resume=true`, used by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import crossthink
from conf.compose import differences, from_file, to_yaml
from conf.help import shown
from conf.train import TrainConfig
from crossthink.errors import ConfigError, UserError
from crossthink.files import NO_SPACE, atomic_file, names_full_disk, write_json
from recipes import machine
from recipes.run_files import LOGS

CONFIG = "config.yaml"
MANIFEST = "manifest.json"
LOCK = ".lock"
BASE = "base"  # under out: the tiny model after its warm start
DEMO_SOURCES = "demo/sources"
DEMO_POOL = "demo/pool"
DEMO_HELD_OUT = "demo/held_out"
# What a resumed run may change: where it runs, how it is cut into pieces, how often it writes, how far it goes and
# when it gives up.
MAY_CHANGE = (
    "resume", "steps", "actor", "rollout.batch_size", "rollout.servers", "rollout.url", "rollout.token",
    "rollout.transport", "rollout.bucket_mb", "rollout.weights_dir", "rollout.deadline_s", "rollout.refit_deadline_s",
    "rollout.outage_limit_s", "nodes", "micro_batch_tokens", "checkpoint", "eval.every",
    "optimizer.max_skipped", "reward.url", "reward.workers", "reward.deadline_s", "reward.outage_limit_s",
    "reward.max_invalid", "reward.token", "profile", "tracking",
)  # fmt: skip


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the run folder; the kernel lets go of it when this process ends, however it ends.

    Where the block refuses the folder with a ConfigError, no lock stays that was not there.

    Raises:
        ConfigError: another process holds it, or there can be no such folder.
    """
    with names_full_disk(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
            is_new = not (out / LOCK).exists()
            (out / LOCK).touch()
        except OSError as error:
            if error.errno in NO_SPACE:
                raise
            raise ConfigError(f"out={out} cannot be a run folder: {error.strerror}. Choose another out=.") from error
    with open(out / LOCK, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"out={out} is in use by another process. Wait for it or choose another out=.") from error
        try:
            yield
        except ConfigError:
            if is_new:
                (out / LOCK).unlink(missing_ok=True)
            raise


def read_config(out: Path) -> TrainConfig | None:
    """The config that the run folder was made with, or None where it holds no run."""
    path = out / CONFIG
    return from_file(TrainConfig, path) if path.is_file() else None


def claim(config: TrainConfig) -> None:
    """Make `config.out` the run folder of this config, or check that it is.

    What a start left that failed before it made anything is no run: another config may have the folder.

    Raises:
        ConfigError: it holds another run, or this one without `resume=true`; says what differs and what to do.
    """
    out = Path(config.out)
    known = read_config(out)
    if known is not None and {p.name for p in out.iterdir()} <= {LOCK, CONFIG, LOGS, MANIFEST}:
        (out / MANIFEST).unlink(missing_ok=True)
    elif known is None:
        strangers = sorted(p.name for p in out.iterdir() if p.name != LOCK)
        if strangers:
            raise ConfigError(
                f"out={out} is not empty and not a run folder (it holds {strangers[0]}). Choose another out=."
            )
    else:
        check_continues(known, config, "run", (*MAY_CHANGE, "out"))
    with atomic_file(out / CONFIG) as handle:
        handle.write(to_yaml(config))


def check_continues(known: Any, config: Any, what: str, may_change: Sequence[str]) -> None:
    """Refuse a folder that holds another run, evaluation or sweep, or this one without `resume=true`.

    Args:
        known: the config that its folder was made with.
        config: this start's; has `out` and `resume`.
        what: it is: run, evaluation, sweep.
        may_change: keys that may differ.

    Raises:
        ConfigError: says what differs and what to do.
    """
    changed = differences(known, config, ignore=may_change)
    if changed:
        values = "; ".join(f"{key} was {shown(old)}, now {shown(new)}" for key, old, new in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ConfigError(
            f"out={config.out} holds {'an' if what[0] in 'aeiou' else 'a'} {what} with another config: {values}{more}. "
            "Give the old values to continue it (resume=true), or choose another out=."
        )
    if not config.resume:
        raise ConfigError(
            f"out={config.out} already holds this {what}. Add resume=true to continue it, or choose another out=."
        )


def record_manifest(out: Path, facts: dict[str, Any]) -> None:
    """Write the run's manifest, or check that a resumed run meets the same pool, base model and rules.

    Raises:
        UserError: something that rewards or tokens depend on has changed since the run began.
    """
    path = out / MANIFEST
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))["facts"]
        for key, value in facts.items():
            if before.get(key) != value:
                raise UserError(
                    f"{key} of {out} has changed since the run began: it was {before.get(key)}, now it is {value}. "
                    "A run continues only with the data, base model and reward rules that it began with."
                )
        return
    packages = ("torch", "megatron-core", "transformers", "numpy", "math-verify")
    write_json(
        path,
        {
            "format": "crossthink-run",
            "crossthink": crossthink.__version__,
            "python": platform.python_version(),
            "packages": {name: version(name) for name in packages},
            "machine": machine.describe(),
            "facts": facts,
        },
    )


def model_folder(config: TrainConfig) -> Path:
    """The Hugging Face folder that training starts from."""
    return Path(config.out) / BASE if config.model.path is None else Path(config.model.path)


def training_pool(config: TrainConfig) -> Path:
    """The pool that prompts are drawn from."""
    return Path(config.out) / DEMO_POOL if config.data is None else Path(config.data)


def held_out_pool(config: TrainConfig) -> Path:
    """The pool that evaluation inside the run asks."""
    return Path(config.out) / DEMO_HELD_OUT if config.eval.data is None else Path(config.eval.data)
