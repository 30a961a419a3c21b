"""What a comparison is made of: runs and evaluations by name, and which row of the paper's tables each belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.ablations import ABLATIONS
from crossthink.errors import ConfigError
from recipes.evaluation.compare import Judged
from recipes.evaluation.folder import EvaluationFolder, is_evaluation, read_evaluation
from recipes.evaluation.summary import Question, Seen, per_question
from recipes.reporting.facts import choice
from recipes.reporting.paper import TABLES
from recipes.reporting.run_data import RunData, read_config, read_run
from recipes.run_files import CHECKPOINTS, EVAL_BASE, EVAL_FINAL
from recipes.run_folder import BASE, CONFIG

INSIDE = "evaluations"  # a folder of evaluations inside a run folder
ROWS = {row.key for table in TABLES for row in table.rows}
SIZE_32B = "32b"


@dataclass(frozen=True)
class Run:
    """A run folder in a comparison. `arm` is the row of the paper's tables that it stands beside, if any."""

    name: str
    data: RunData
    arm: str | None


@dataclass(frozen=True)
class Measured:
    """An evaluation in a comparison.

    Attributes:
        name: as tables and charts call it.
        folder: what was read.
        model: who answered: a model and its training step, a folder, or a model at an endpoint.
        arm: the row of the paper's tables that it stands beside, if any.
        large: it belongs to Table 7 (32B), not to the tables of the 7B model.
        judged: accuracy of each question.
        right_lengths: by benchmark, for every question with right answers of known length: tokens and how many.
    """

    name: str
    folder: EvaluationFolder
    model: str
    arm: str | None
    large: bool
    judged: Judged
    right_lengths: dict[str, list[tuple[float, float]]]

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json holds."""
        return self.folder.summary

    @property
    def of_paper(self) -> bool:
        """Whether any of the paper's benchmarks was asked."""
        return bool(self.summary["average"]["of"])


def read_entries(key: str, values: Sequence[str]) -> list[tuple[str, Path]]:
    """Name and folder of every entry `NAME=FOLDER` or `FOLDER`, whose name is then the folder's.

    Raises:
        ConfigError: an empty name or folder, or two entries of one name.
    """
    found: list[tuple[str, Path]] = []
    for value in values:
        name, equals, folder = value.partition("=")
        if not equals or Path(value).is_dir():
            name, folder = Path(value).resolve().name, value
        if not name.strip() or not folder:
            raise ConfigError(f"{key}: '{value}' is neither FOLDER nor NAME=FOLDER.")
        if name in dict(found):
            raise ConfigError(f"{key}: two entries are called '{name}'. Tell them apart: NAME=FOLDER.")
        found.append((name, Path(folder)))
    return found


def read_runs(values: Sequence[str]) -> list[Run]:
    """The runs of `runs=[...]`.

    Raises:
        ConfigError: a folder that is no run.
        UserError: one of its files cannot be read.
    """
    found = read_entries("runs", values)
    return [Run(name, data := read_run(folder, "runs"), arm_of(data.config)) for name, folder in found]


def read_evaluations(runs: Sequence[Run], values: Sequence[str]) -> list[Measured]:
    """Evaluations of `evaluations=[...]`, then those inside the runs.

    Args:
        runs: a run's evaluations lie in eval/base, eval/final and evaluations/.
        values: entries of `evaluations`; a folder with one evaluation a checkpoint stands for all of them.

    Raises:
        ConfigError: a folder that is no evaluation, or two of one name.
        UserError: a file cannot be read.
    """
    places = [place for entry in read_entries("evaluations", values) for place in _expanded(*entry)]
    places += [place for run in runs for place in _inside(run)]
    names = [name for name, _ in places]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two evaluations are called '{name}'. Tell them apart: evaluations=[NAME=FOLDER].")
    return [_measured(name, path) for name, path in places]


def arm_of(config: dict[str, Any]) -> str | None:
    """The row of the paper's tables that a run belongs to: its ablation recipe, else its blend."""
    if config.get("recipe") in ABLATIONS:
        return str(config["recipe"])
    blend = config.get("blend")
    name = blend.get("name") if isinstance(blend, dict) else blend
    return name if name in ROWS else None


def is_large(config: dict[str, Any]) -> bool:
    """Whether a run belongs to the paper's 32B table."""
    model = config.get("model")
    told = (model.get("name"), model.get("path")) if isinstance(model, dict) else (model,)
    return any(SIZE_32B in str(value).lower() for value in (config.get("recipe"), *told))


def _expanded(name: str, path: Path) -> Iterator[tuple[str, Path]]:
    parts = [] if is_evaluation(path) or not path.is_dir() else [p for p in sorted(path.iterdir()) if is_evaluation(p)]
    if not parts:
        yield name, path
    for part in parts:
        yield f"{name} {part.name}", part


def _inside(run: Run) -> Iterator[tuple[str, Path]]:
    folder = run.data.folder
    for part, name in ((EVAL_BASE, f"{run.name} before"), (EVAL_FINAL, run.name)):
        if is_evaluation(folder / part):
            yield name, folder / part
    if (folder / INSIDE).is_dir():
        for name, path in _expanded(run.name, folder / INSIDE):
            if is_evaluation(path):
                yield f"{run.name} {INSIDE}" if path.name == INSIDE else name, path


def _measured(name: str, path: Path) -> Measured:
    folder = read_evaluation(path)
    seen = [Seen.of(sample) for sample in folder.samples()]
    judged = Judged(folder.path, folder.identity, per_question(seen, "accuracy"), folder.summary["questions"])
    return Measured(name, folder, *_place(name, folder), judged, right_lengths(seen))


def right_lengths(seen: Sequence[Seen]) -> dict[str, list[tuple[float, float]]]:
    """By benchmark, a pair for every question with right answers of known length: their tokens, and how many."""
    sums: dict[Question, tuple[float, float]] = {}
    for one in seen:
        if one.accuracy == 1 and one.tokens is not None:
            tokens, count = sums.get(one.question, (0.0, 0.0))
            sums[one.question] = (tokens + one.tokens, count + 1)
    found: dict[str, list[tuple[float, float]]] = {}
    for (benchmark, _), pair in sums.items():
        found.setdefault(benchmark, []).append(pair)
    return found


def _place(name: str, folder: EvaluationFolder) -> tuple[str, str | None, bool]:
    """Model, row and size of an evaluation; its name comes before its checkpoint's run in saying which row."""
    facts = folder.summary["facts"]
    checkpoint = Path(facts["checkpoint"]) if facts.get("checkpoint") else None
    config, inside = _run_of(checkpoint) if checkpoint else ({}, "")
    if checkpoint is None:
        model = f"{facts.get('model') or 'unknown model'} at {facts.get('endpoint') or 'unknown endpoint'}"
    elif inside == CHECKPOINTS:
        model = f"{_short(Path(choice(config, 'model')))}, {checkpoint.name}"
    else:
        model = _short(checkpoint)
    arm = "base" if inside == BASE else arm_of(config) if inside == CHECKPOINTS else None
    return model, name if name in ROWS else arm, is_large(config) or SIZE_32B in f"{checkpoint} {model}".lower()


def _short(path: Path) -> str:
    return "/".join(path.parts[-2:])


def _run_of(checkpoint: Path) -> tuple[dict[str, Any], str]:
    """The config of the run that a checkpoint lies in, and where in it; empty where it lies in none."""
    for parent in list(checkpoint.parents)[:2]:
        if (parent / CONFIG).is_file():
            return read_config(parent / CONFIG), checkpoint.relative_to(parent).parts[0]
    return {}, ""
