"""`crossthink runs`: the runs of a folder, newest first, and what their configs differ in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from conf.runs import RunsConfig
from crossthink.errors import EXIT_DONE, ConfigError, UserError
from recipes.reporting.run_data import RunData, read_run
from recipes.run_files import CHECKPOINTS, METRICS, ROLLOUTS, newest_step
from recipes.run_folder import CONFIG, LOCK

DEPTH = 3
RECENT = 10  # steps over which the reward is averaged
SHOWN = 8  # differing keys of a run in the text; JSON has all
_RUN_FILES = (METRICS, CHECKPOINTS, ROLLOUTS)  # a folder with one of these was a run's
_NO_DIFFERENCE = ("out", "resume", "defaults")


@dataclass
class Run:
    """A run in the list.

    Attributes:
        name: its folder, below the one that was asked for.
        state: finished, under way (a process on this machine holds it), stopped, or damaged.
        step: the last one in metrics.jsonl.
        steps: of the whole run.
        reward: mean over the last `RECENT` steps.
        best: highest accuracy on held-out questions of its evaluations.
        final: accuracy on held-out questions of the last one.
        changed: when it last wrote something, seconds since the epoch.
        differs: keys of its config whose values are not the same in all runs of the list.
        problem: what is wrong with a damaged one.
    """

    name: str
    state: str
    step: int = 0
    steps: int = 0
    reward: float | None = None
    best: float | None = None
    final: float | None = None
    changed: float = 0.0
    differs: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def run(config: RunsConfig) -> int:
    """Print the list. Raises ConfigError where there is no such folder."""
    found = list_runs(Path(config.folder))
    if config.json:
        print(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    elif not found:
        print(f"no runs under {config.folder}")
    else:
        Console().print(_table(found, config.folder))
        lines = _lines(found)
        if lines:
            print("\n".join(["What is wrong, or what the configs differ in:", *lines]))
    return EXIT_DONE


def list_runs(folder: Path) -> list[Run]:
    """The runs under a folder, newest first; damaged ones are in the list, with what is wrong.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"folder={folder} does not exist. Give the folder that your run folders are in.")
    held = _held_files()
    runs, configs = [], {}
    for path in sorted(_run_folders(folder, DEPTH)):
        name = str(path.relative_to(folder)) if path != folder else path.name
        try:
            data = read_run(path)
            steps = int(data.config["steps"])
        except (UserError, OSError, KeyError, TypeError, ValueError) as error:
            problem = str(error) if isinstance(error, UserError) else f"{path}: {error!r}"
            runs.append(Run(name, "damaged", changed=_changed(path), problem=problem))
            continue
        configs[name] = _flat(data.config)
        runs.append(_describe(name, path, data, steps, held))
    for name, differs in different_keys(configs).items():
        next(one for one in runs if one.name == name).differs = differs
    return sorted(runs, key=lambda one: (-one.changed, one.name))


def different_keys(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of every config, by name, the keys whose values are not the same in all of them."""
    keys = sorted({key for config in configs.values() for key in config})
    distinct = [key for key in keys if len({json.dumps(one.get(key), default=str) for one in configs.values()}) > 1]
    return {name: {key: config[key] for key in distinct if key in config} for name, config in configs.items()}


def _describe(name: str, path: Path, data: RunData, steps: int, held: set[int] | None) -> Run:
    rewards = [step.values.get("reward") for step in data.steps[-RECENT:]]
    known = [reward for reward in rewards if reward is not None]
    scores = [one.all.accuracy for one in data.evaluations] + [data.after.all.accuracy if data.after else None]
    accuracies = [score for score in scores if score is not None]
    unfinished = "under way" if _is_held(path / LOCK, held) else "stopped"
    return Run(
        name=name,
        state="finished" if newest_step(path) >= steps else unfinished,
        step=data.last_step,
        steps=steps,
        reward=sum(known) / len(known) if known else None,
        best=max(accuracies, default=None),
        final=data.after.all.accuracy if data.after else None,
        changed=_changed(path),
    )


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    """Folders that are or were runs, `folder` included; nothing is looked for inside of one."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        return
    if CONFIG in names or names & set(_RUN_FILES):
        yield folder
    elif depth:
        for name in names:
            if (folder / name).is_dir() and not name.startswith("."):
                yield from _run_folders(folder / name, depth - 1)


def _changed(path: Path) -> float:
    files = (path / METRICS, path / CONFIG, path)
    return max((file.stat().st_mtime for file in files[:2] if file.is_file()), default=path.stat().st_mtime)


def _held_files() -> set[int] | None:
    """Inodes of the files that processes of this machine have locked; None where the system does not tell.

    Read from the kernel: to try the lock oneself would turn away a run that starts at that moment.
    """
    try:
        lines = Path("/proc/locks").read_text("utf-8").splitlines()
    except OSError:
        return None
    return {int(word.split(":")[2]) for line in lines for word in line.split() if word.count(":") == 2}


def _is_held(lock: Path, held: set[int] | None) -> bool:
    return held is not None and lock.is_file() and lock.stat().st_ino in held


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if not prefix and key in _NO_DIFFERENCE:
            continue
        if isinstance(inner, Mapping) and inner:
            found.update(_flat(inner, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = inner
    return found


def _table(runs: Sequence[Run], folder: str) -> Table:
    name = Column("run", overflow="fold")
    others = (Column(head, no_wrap=True) for head in ("state", "step", "reward", "best", "final", "changed"))
    table = Table(name, *others, title=f"Runs of {folder}", title_justify="left")
    for one in runs:
        table.add_row(
            Text(one.name),  # text, not markup: it may hold brackets
            one.state,
            f"{one.step}/{one.steps}" if one.steps else "–",
            *("–" if value is None else f"{value:.3f}" for value in (one.reward, one.best, one.final)),
            datetime.fromtimestamp(one.changed).strftime("%m-%d %H:%M"),
        )
    return table


def _lines(runs: Sequence[Run]) -> list[str]:
    """What the table has no room for: what is wrong with a run, else what its config differs in."""
    lines = []
    for one in runs:
        # A blend is known by its name.
        known = {
            key: value for key, value in one.differs.items() if key == "blend.name" or not key.startswith("blend.")
        }
        shown = [f"{key}={value}" for key, value in list(known.items())[:SHOWN]]
        more = [f"and {len(known) - SHOWN} more"] if len(known) > SHOWN else []
        if one.problem or shown:
            lines.append(f"  {one.name}: {one.problem or '  '.join([*shown, *more])}")
    return lines
