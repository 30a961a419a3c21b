"""The figures of a comparison: curves of several runs, accuracy against length, accuracy by category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup

from recipes.reporting.charts import INK, STYLE, add_legend, as_svg, new_figure, whole_steps
from recipes.reporting.measured import Measured, Run
from recipes.reporting.paper import BENCHMARK_NAMES
from recipes.reporting.statistics import smooth, window
from recipes.reporting.text import visible

COLOURS = ("#2a6ca8", "#b0601a", "#5b7f3a", "#8a5fa8", "#a8892a", "#5f6f7d", "#a83a4f", "#2f8f8a")
DASHES, MARKS = ("-", "--", ":", "-."), ("o", "s", "^", "D")
"""What tells lines and points of one colour apart."""
MOST_CATEGORIES = 24
"""Groups of more values than this get a table only."""
LONGEST_NAME = 34


@dataclass(frozen=True)
class Series:
    """Shares of one evaluation by category: (value, low, high), or None where it was not asked."""

    label: str
    values: list[tuple[float, float, float] | None]


def comparison_charts(runs: Sequence[Run], evaluations: Sequence[Measured]) -> list[dict[str, Any]]:
    """Every figure there are numbers for, as title, note and SVG."""
    found = [
        (
            "Learning curves",
            "Mean R of the answers sampled in each step.",
            run_curves(runs, "reward", "mean R, %", 100),
        ),
        ("Length of answers", "Over training.", run_curves(runs, "response_tokens", "mean tokens of an answer", 1)),
        (
            "Accuracy against length",
            "Over all questions of each evaluation; whiskers are 95 % intervals.",
            efficiency(evaluations),
        ),
    ]
    return [{"title": title, "note": note, "svg": Markup(svg)} for title, note, svg in found if svg]


def run_curves(runs: Sequence[Run], key: str, label: str, scale: float) -> str:
    """A metric of every run over its steps: light points, the smoothed line on top. Returns SVG."""
    shown = [run for run in runs if run.data.known(key)]
    if not shown:
        return ""
    with matplotlib.rc_context(_style()):
        figure, axes = new_figure((5.2, 3.1 + _legend_height(shown)))
        for place, (run, colour) in enumerate(zip(shown, _colours(shown), strict=True)):
            steps = [step.step for step in run.data.steps]
            values = [None if v is None else v * scale for v in run.data.series(key)]
            size = window(len(values))
            smoothed = smooth(values, size)
            for line, drawn in ((values, "light"), (smoothed, "line")):
                places = [(s, v) for s, v in zip(steps, line, strict=True) if v is not None]
                x, y = [s for s, _ in places], [v for _, v in places]
                if drawn == "light":
                    axes.scatter(x, y, s=7, color=colour, alpha=1.0 if size == 1 else 0.25, linewidths=0)
                else:
                    axes.plot(x, y, color=colour, linestyle=_of_round(DASHES, place), label=_name(run.name))
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        axes.set_xlabel("training step")
        axes.grid(axis="y")
        whole_steps(axes)
        add_legend(axes, 2)
        return as_svg(figure, f"runs-{key}", f"{label} over training steps, by run")


def efficiency(evaluations: Sequence[Measured]) -> str:
    """Accuracy against mean tokens of right answers, a point an evaluation. Returns SVG."""
    points = [
        (one.name, one.summary["tokens"]["right"]["mean"], one.summary["accuracy"], one.summary["accuracy_interval"])
        for one in evaluations
    ]
    points = [point for point in points if point[1] is not None and point[2] is not None]
    if not points:
        return ""
    with matplotlib.rc_context(_style()):
        figure, axes = new_figure((5.2, 3.1 + _legend_height(points)))
        for place, ((name, tokens, accuracy, (low, high)), colour) in enumerate(
            zip(points, _colours(points), strict=True)
        ):
            axes.plot([tokens] * 2, [100 * low, 100 * high], color=INK, linewidth=1)
            mark = _of_round(MARKS, place)
            axes.plot([tokens], [100 * accuracy], mark, markersize=7, color=colour, label=_name(name))
        axes.set_xlim(0, 1.1 * max(tokens for _, tokens, _, _ in points) or 1)
        axes.set_xlabel("mean tokens of right answers")
        axes.set_ylabel("accuracy, %")
        axes.grid()
        add_legend(axes, 2)
        return as_svg(figure, "efficiency", "accuracy against mean tokens of right answers, by evaluation")


def category_charts(evaluations: Sequence[Measured]) -> list[dict[str, Any]]:
    """Bars of accuracy for every named category of few enough values, as title and SVG."""
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for one in evaluations:
        for benchmark, block in one.summary["benchmarks"].items():
            for group, blocks in block["groups"].items():
                groups.setdefault((benchmark, group), {}).update(dict.fromkeys(blocks))
    found: list[dict[str, Any]] = []
    for (benchmark, group), names in groups.items():
        if 1 < len(names) <= MOST_CATEGORIES:
            series = [
                Series(one.name, values)
                for one in evaluations
                if any(values := [_share(one, benchmark, group, name) for name in sorted(names)])
            ]
            title = f"{BENCHMARK_NAMES.get(benchmark, benchmark)} by {group}"
            found.append({"title": title, "svg": Markup(category_bars(f"bars{len(found)}", sorted(names), series))})
    return found


def category_bars(name: str, categories: Sequence[str], series: Sequence[Series]) -> str:
    """Horizontal bars with interval whiskers, those of a category together. Returns SVG."""
    thick = 0.8 / max(1, len(series))
    with matplotlib.rc_context(_style()):
        figure, axes = new_figure((5.2, 0.9 + len(categories) * (0.16 + 0.13 * len(series)) + _legend_height(series)))
        for place, (one, colour) in enumerate(zip(series, _colours(series), strict=True)):
            offset = (place - (len(series) - 1) / 2) * thick
            rows = [(row + offset, value) for row, value in enumerate(one.values) if value is not None]
            heights, widths = [row for row, _ in rows], [100 * value[0] for _, value in rows]
            axes.barh(heights, widths, height=0.9 * thick, color=colour, label=_name(one.label), linewidth=0)
            for row, (_, low, high) in rows:
                axes.plot([100 * low, 100 * high], [row, row], color=INK, linewidth=0.8)
        axes.set_yticks(range(len(categories)), [_name(category) for category in categories])
        axes.set_ylim(len(categories) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x")
        add_legend(axes, 2)
        return as_svg(figure, name, "accuracy by category and evaluation")


def _share(one: Measured, benchmark: str, group: str, name: str) -> tuple[float, float, float] | None:
    block = one.summary["benchmarks"].get(benchmark, {"groups": {}})["groups"].get(group, {}).get(name)
    if block is None or block["accuracy"] is None:
        return None
    return block["accuracy"], *block["accuracy_interval"]


def _style() -> dict[str, Any]:
    return {**STYLE, "text.parse_math": False}  # a name may hold dollar signs


def _name(text: str) -> str:
    """A name as a figure shows it; matplotlib leaves out what begins with an underscore."""
    shown = visible(text)
    shown = shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"
    return f"\u2060{shown}" if shown.startswith("_") else shown


def _colours(of: Sequence[object]) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(of))]


def _of_round(kinds: Sequence[str], place: int) -> str:
    """The next of `kinds` with every round of colours."""
    return kinds[place // len(COLOURS) % len(kinds)]


def _legend_height(of: Sequence[object]) -> float:
    return 0.19 * (-(-len(of) // 2) - 1)
