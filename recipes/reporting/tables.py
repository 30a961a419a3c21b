"""The tables of a comparison as plain data, so that the HTML page and the Markdown file hold the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.evaluation.intervals import percentiles, resampled_ratios
from recipes.evaluation.summary import MATH, NON_MATH, PAPER
from recipes.reporting.measured import Measured
from recipes.reporting.paper import BENCHMARK_NAMES, LENGTHS, TABLES, PublishedRow, PublishedTable, means
from recipes.reporting.text import number

UNKNOWN = "unknown"
NOT_ASKED = "not asked"
AVERAGES = {"all": "Average", "non_math": "Non-math", "math": "Math"}
LENGTH_NAMES = {"gpr": "GPR tasks", "math": "Math tasks", "mmlu_test": "MMLU"}
LENGTH_RESAMPLES = 2_000
LARGE_TABLE = 7


@dataclass(frozen=True)
class Cell:
    """A figure, and in small type what it has to be read with, a line each: interval, number of questions, mark.

    It holds our own words and numbers; labels of rows and columns may hold anybody's.
    """

    text: str
    small: tuple[str, ...] = ()
    tone: str = ""


@dataclass(frozen=True)
class Row:
    """A line of a table. `ours` tells our measurements from published ones."""

    label: str
    small: str
    cells: list[Cell]
    ours: bool = True


@dataclass(frozen=True)
class Table:
    """A table with a title and, where it needs one, a note."""

    anchor: str
    title: str
    columns: list[str]
    rows: list[Row]
    note: str = ""


@dataclass(frozen=True)
class Direction:
    """A difference that the paper reports, beside ours: shares (0.01 is a percentage point).

    `verdict` is "up" where ours is sure to point the same way, "down" where it is sure not to, else "even".
    """

    label: str
    paper: float
    ours: float
    interval: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True)
class SweepView:
    """What a sweep found over its seeds."""

    title: str
    note: str
    tables: list[Table]
    directions: list[Direction]


def overview(evaluations: Sequence[Measured]) -> Table:
    """Every evaluation with all that it was asked."""
    names = [*PAPER, *dict.fromkeys(name for one in evaluations for name in one.summary["benchmarks"])]
    names = [name for name in dict.fromkeys(names) if any(name in one.summary["benchmarks"] for one in evaluations)]
    rows = [
        Row(
            one.name,
            described(one),
            [*(average_cell(one, key) for key in AVERAGES), *(benchmark_cell(one, name) for name in names)],
        )
        for one in evaluations
    ]
    return Table(
        "evaluations",
        "Our evaluations",
        [*AVERAGES.values(), *(BENCHMARK_NAMES.get(name, name) for name in names)],
        rows,
    )


def paper_tables(evaluations: Sequence[Measured]) -> list[Table]:
    """The paper's tables, each published row with ours below it."""
    return [_beside(table, evaluations) for table in TABLES]


def _beside(table: PublishedTable, evaluations: Sequence[Measured]) -> Table:
    lengths = table.columns == LENGTHS
    names = LENGTH_NAMES if lengths else BENCHMARK_NAMES
    rows: list[Row] = []
    for published in table.rows:
        cells = _lengths_of(published) if lengths else _accuracies_of(published)
        rows.append(Row(published.label, f"paper, {table.model}, {table.mark}", cells, ours=False))
        for one in evaluations:
            if one.of_paper and one.arm == published.key and one.large == (table.number == LARGE_TABLE):
                rows.append(Row(one.name, described(one), _lengths(one) if lengths else _accuracies(one)))
    columns = [names[name] for name in table.columns]
    return Table(
        table.anchor,
        f"Table {table.number}: {table.title}",
        columns if lengths else [*AVERAGES.values(), *columns],
        rows,
        table.note,
    )


def described(one: Measured) -> str:
    """What our numbers in a row were measured with."""
    runs = one.summary["runs"]
    return f"ours: {one.model}, {runs} {'run' if runs == 1 else 'runs'}"


def _accuracies_of(row: PublishedRow) -> list[Cell]:
    derived = means(row)
    return [
        _published(row.average),
        *(_published(derived[side], "derived") for side in ("non_math", "math")),
        *(_published(row.cells.get(name)) for name in PAPER),
    ]


def _lengths_of(row: PublishedRow) -> list[Cell]:
    return [Cell(number(row.cells[name], 0)) if name in row.cells else Cell(UNKNOWN) for name in LENGTHS]


def _published(value: float | None, mark: str = "") -> Cell:
    return Cell(UNKNOWN) if value is None else Cell(f"{value:.2f}", (mark,) if mark else ())


def _accuracies(one: Measured) -> list[Cell]:
    return [*(average_cell(one, key) for key in AVERAGES), *(benchmark_cell(one, name) for name in PAPER)]


def average_cell(one: Measured, key: str) -> Cell:
    """A mean over benchmarks, which always says of how many it is."""
    average = one.summary["average"]
    side = {"all": PAPER, "non_math": NON_MATH, "math": MATH}[key]
    asked = [name for name in average["of"] if name in side]
    if average[key] is None:
        return Cell(NOT_ASKED)
    of = f"mean of {len(asked)} {'benchmark' if len(asked) == 1 else 'benchmarks'}"
    return Cell(percent(average[key]), (interval_words(average["intervals"][key]), of))


def benchmark_cell(one: Measured, name: str) -> Cell:
    """Accuracy on a benchmark with its interval and the number of questions."""
    block = one.summary["benchmarks"].get(name)
    return Cell(NOT_ASKED) if block is None else accuracy_cell(block)


def accuracy_cell(block: Mapping[str, Any]) -> Cell:
    """Accuracy of a block with its interval and the number of questions."""
    if block["accuracy"] is None:
        return Cell(UNKNOWN, (f"none of {block['questions']} judged",))
    return Cell(percent(block["accuracy"]), (interval_words(block["accuracy_interval"]), f"n = {block['judged']}"))


def _lengths(one: Measured) -> list[Cell]:
    return [_length_cell(one, names) for names in (NON_MATH, MATH, ("mmlu_test",))]


def _length_cell(one: Measured, names: Iterable[str]) -> Cell:
    """Mean tokens of right answers: the plain mean over some benchmarks."""
    benchmarks = one.summary["benchmarks"]
    asked = [name for name in names if name in benchmarks]
    known = [name for name in asked if one.right_lengths.get(name)]
    if not known:
        return Cell(UNKNOWN, ("no right answer", "of known length")) if asked else Cell(NOT_ASKED)
    drawn = [resampled_ratios(one.right_lengths[name], seed, LENGTH_RESAMPLES) for seed, name in enumerate(known)]
    low, high = percentiles(np.mean(drawn, axis=0))
    value = sum(benchmarks[name]["tokens"]["right"]["mean"] for name in known) / len(known)
    answers = sum(benchmarks[name]["tokens"]["right"]["count"] for name in known)
    of = f"{len(known)} {'benchmark' if len(known) == 1 else 'benchmarks'}, {answers} answers"
    return Cell(number(value, 0), (f"{number(low, 0)} to {number(high, 0)}", of))


def group_tables(evaluations: Sequence[Measured]) -> list[Table]:
    """Accuracy by every named category of every benchmark: subjects, disciplines, tasks, levels."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in evaluations:
        for benchmark, block in one.summary["benchmarks"].items():
            for group, blocks in block["groups"].items():
                known = found.setdefault((benchmark, group), [])
                known += [name for name in blocks if name not in known]
    tables: list[Table] = []
    for (benchmark, group), names in found.items():
        if len(names) < 2:  # it says what the benchmark's own number says
            continue
        rows = [
            Row(name, "", [_group_cell(one, benchmark, group, name) for one in evaluations]) for name in sorted(names)
        ]
        title = f"{BENCHMARK_NAMES.get(benchmark, benchmark)} by {group}"
        tables.append(Table(f"group-{len(tables)}", title, [one.name for one in evaluations], rows))
    return tables


def _group_cell(one: Measured, benchmark: str, group: str, name: str) -> Cell:
    block = one.summary["benchmarks"].get(benchmark, {"groups": {}})["groups"].get(group, {}).get(name)
    return Cell(NOT_ASKED) if block is None else accuracy_cell(block)


def percent(value: float) -> str:
    """A share in per cent with the paper's two decimals, the sign left to the column."""
    return f"{100 * value:.2f}"


def interval_words(interval: Sequence[float] | None) -> str:
    """An interval of shares in per cent."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else ""
