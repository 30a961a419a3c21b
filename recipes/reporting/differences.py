"""Tables of a comparison that are no table of the paper's: paired differences of evaluations, and costs of runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from crossthink.errors import UserError
from recipes.evaluation.compare import Comparison, Difference, compare_judged
from recipes.reporting.figures import phase_names
from recipes.reporting.measured import Measured, Run
from recipes.reporting.paper import BENCHMARK_NAMES
from recipes.reporting.tables import NOT_ASKED, UNKNOWN, Cell, Row, Table
from recipes.reporting.text import duration, number, points, visible

ALL_PAIRS = 6
"""Up to as many evaluations are compared each with each, more of them with the first alone."""


def comparisons(evaluations: Sequence[Measured]) -> tuple[Table | None, list[str]]:
    """Paired differences of the evaluations that can be compared, and why the others cannot."""
    found: list[tuple[str, Comparison]] = []
    reasons: list[str] = []
    for one, other in _pairs(evaluations):
        try:
            found.append((f"{other.name} − {one.name}", compare_judged(one.judged, other.judged)))
        except UserError as error:
            reasons.append(f"{other.name} − {one.name}: {error}")
    if not found:
        return None, reasons
    names = list(dict.fromkeys(name for _, comparison in found for name in comparison.benchmarks))
    rows = [
        Row(
            label,
            f"{comparison.overall.questions} questions, {comparison.left_out} left out",
            [
                _cell(comparison.average),
                _cell(comparison.overall),
                *(_cell(comparison.benchmarks.get(name)) for name in names),
            ],
        )
        for label, comparison in found
    ]
    columns = ["Mean of benchmarks", "All questions", *(BENCHMARK_NAMES.get(name, name) for name in names)]
    return Table("comparisons", "Paired differences, percentage points", columns, rows), reasons


def _pairs(evaluations: Sequence[Measured]) -> Iterator[tuple[Measured, Measured]]:
    if len(evaluations) <= ALL_PAIRS:
        return itertools.combinations(evaluations, 2)
    return ((evaluations[0], other) for other in evaluations[1:])


def _cell(difference: Difference | None) -> Cell:
    if difference is None:
        return Cell(NOT_ASKED)
    low, high = (points(bound) for bound in difference.interval)
    tone = "even" if not difference.apart else "up" if difference.value > 0 else "down"
    return Cell(points(difference.value), (f"{low} to {high}", f"n = {difference.questions}"), tone)


def costs(runs: Sequence[Run]) -> Table | None:
    """What the runs took: steps, seconds by phase, tokens, GPU-hours."""
    if not runs:
        return None
    phases = list(dict.fromkeys(name for run in runs for name in phase_names(run.data)))
    columns = ["Steps", "Training steps took", *phases, "Tokens", "Tokens a second", "GPU-hours"]
    return Table("costs", "Costs", columns, [Row(run.name, _what(run), _costs(run, phases)) for run in runs])


def _what(run: Run) -> str:
    blend = run.data.config.get("blend")
    name = blend.get("name") if isinstance(blend, dict) else blend
    return f"blend {name or UNKNOWN}"


def _costs(run: Run, phases: Sequence[str]) -> list[Cell]:
    seconds = {name: _total(run, name) for name in (*phases, "total")}
    tokens = sum(run.data.known("tokens")) or None
    total = seconds["total"]
    return [
        Cell(f"{run.data.last_step}"),
        Cell(UNKNOWN if total is None else duration(total)),
        *(Cell(UNKNOWN) if seconds[name] is None else _part(seconds[name], total) for name in phases),
        Cell(UNKNOWN if tokens is None else number(tokens, 0)),
        Cell(UNKNOWN if tokens is None or not total else number(tokens / total, 0)),
        _gpu_hours(run, total),
    ]


def _part(seconds: Any, total: float | None) -> Cell:
    return Cell(duration(seconds), (f"{100 * seconds / total:.0f} %",) if total else ())


def _total(run: Run, phase: str) -> float | None:
    known = [step.seconds[phase] for step in run.data.steps if phase in step.seconds]
    return sum(known) if known else None


def _gpu_hours(run: Run, total: float | None) -> Cell:
    """GPUs of the actor's ranks for the time of the training steps. Servers on GPUs of their own are not in it."""
    gpus = run.data.manifest.machine.get("gpus")
    actor = run.data.config.get("actor") or {}
    data = actor.get("data_parallel")
    if gpus == []:
        return Cell("none", ("no GPU",))
    if gpus is None or total is None or data is None:
        return Cell(UNKNOWN)
    ranks = data * actor.get("tensor_parallel", 1) * actor.get("pipeline_parallel", 1)
    return Cell(number(ranks * total / 3600), (f"{ranks} × {visible(gpus[0])}", "actor alone"))
