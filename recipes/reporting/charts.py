"""The figures of a report: small, quiet, and the same bytes for the same numbers."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossthink.files import atomic_file
from recipes.reporting.statistics import means_of, smooth, window

BEFORE, AFTER = "#b4bec8", "#4a89bf"
INK, GRID = "#39424b", "#e3e6ea"
SERIES = {"reward": "#2a6ca8", "accuracy": "#b0601a", "format": "#5b7f3a"}
PHASE_COLOURS = ("#4a89bf", "#c47a3a", "#9a80b8", "#7a9e5a", "#c9b05a", "#8a929b")
MOST_BARS = 48
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": "#b8c0c8",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 4),
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Line:
    """One quantity over training steps; a value may be missing."""

    label: str
    values: Sequence[float | None]
    colour: str


@dataclass(frozen=True)
class Bar:
    """A share before and after with its 95 % interval, each (value, low, high) or None."""

    label: str
    before: tuple[float, float, float] | None
    after: tuple[float, float, float] | None


def curves(
    name: str,
    steps: Sequence[int],
    lines: Sequence[Line],
    label: str,
    *,
    share: bool = False,
    small: bool = False,
    from_zero: bool = False,
    marks: Sequence[tuple[int, float]] = (),
    marks_label: str = "",
) -> str:
    """Raw values as light points, their smoothed line on top; `marks` are drawn as diamonds. Returns SVG."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure((3.5, 2.2) if small else (5.2, 3.1))
        _draw_curves(axes, steps, lines, share=share, marks=marks, marks_label=marks_label)
        if from_zero:
            axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        axes.set_ylabel(label)
        axes.set_xlabel("training step")
        if len(lines) + bool(marks) > 1:
            add_legend(axes, len(lines) + bool(marks))
        return as_svg(figure, name, f"{label or name} over training steps")


def before_after(name: str, bars: Sequence[Bar], what: str) -> str:
    """A pair of horizontal bars a group, with interval whiskers. Returns SVG."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure((3.7, 0.8 + 0.42 * len(bars)))
        _draw_before_after(axes, bars)
        axes.set_xlabel(what)
        return as_svg(figure, name, f"{what}, before and after training, by {name}")


def phases(name: str, steps: Sequence[int], seconds: dict[str, list[float]]) -> str:
    """Seconds of each phase, stacked, one bar a step (means of neighbouring steps in long runs). Returns SVG."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure((10.6, 3.0))
        size = -(-len(steps) // MOST_BARS)
        places = means_of(steps, size)
        base = [0.0] * len(places)
        for colour, (phase, values) in zip(_cycle(PHASE_COLOURS, len(seconds)), seconds.items(), strict=True):
            heights = means_of(values, size)
            axes.bar(places, heights, width=0.85 * size, bottom=base, color=colour, label=phase, linewidth=0)
            base = [b + h for b, h in zip(base, heights, strict=True)]
        axes.set_ylabel("seconds per step")
        axes.set_xlabel("training step" if size == 1 else f"training step (each bar: mean of {size} steps)")
        axes.grid(axis="y")
        whole_steps(axes)
        add_legend(axes, len(seconds))
        return as_svg(figure, name, "seconds of each phase per training step")


def result_png(path: Path, steps: Sequence[int], lines: Sequence[Line], bars: Sequence[Bar], what: str) -> None:
    """Training curves beside before/after bars in one PNG, written whole or not at all."""
    with matplotlib.rc_context({**STYLE, "font.size": 10}):
        figure = Figure(figsize=(10, 3.6), dpi=160, layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_curves(left, steps, lines, share=True)
        left.set_xlabel("training step")
        left.set_ylabel("sampled answers of the step, %")
        left.set_title("During training", loc="left", fontsize=11, pad=22)
        add_legend(left, len(lines))
        right.set_title("Held-out questions", loc="left", fontsize=11, pad=22)
        if bars:
            _draw_before_after(right, bars)
            right.set_xlabel(what)
        else:
            right.set_axis_off()
            right.text(0, 0.5, "no evaluation before and after in this run", transform=right.transAxes)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    with atomic_file(path, "wb") as handle:
        handle.write(picture.getvalue())


def _draw_curves(
    axes: Axes,
    steps: Sequence[int],
    lines: Sequence[Line],
    *,
    share: bool = False,
    marks: Sequence[tuple[int, float]] = (),
    marks_label: str = "",
) -> None:
    scale = 100.0 if share else 1.0
    size = window(len(steps))
    for place, line in enumerate(lines):
        above = 3 - 0.1 * place  # the first line is the one that matters: over the others where they meet
        known = [(s, v * scale) for s, v in zip(steps, line.values, strict=True) if v is not None]
        light = 1.0 if size == 1 else 0.28
        axes.scatter(*_columns(known), s=7, color=line.colour, alpha=light, linewidths=0, zorder=above - 1)
        drawn = zip(steps, smooth(line.values, size), strict=True)
        curve = _columns([(s, v * scale) for s, v in drawn if v is not None])
        axes.plot(*curve, color=line.colour, label=line.label, zorder=above)
    if marks:
        places = _columns([(s, v * scale) for s, v in marks])
        axes.plot(*places, "D", markersize=5, color=INK, label=marks_label)
    axes.grid(axis="y")
    whole_steps(axes)
    if share:
        axes.set_ylim(0, 103)


def _draw_before_after(axes: Axes, bars: Sequence[Bar]) -> None:
    for offset, colour, label, field in ((-0.2, BEFORE, "before", "before"), (0.2, AFTER, "after", "after")):
        for row, bar in enumerate(bars):
            value = getattr(bar, field)
            if value is None:
                continue
            middle, low, high = (100 * number for number in value)
            axes.barh(row + offset, middle, height=0.36, color=colour, label=label, linewidth=0)
            axes.plot([low, high], [row + offset] * 2, color=INK, linewidth=1, solid_capstyle="butt")
            axes.annotate(
                f"{middle:.1f}", (max(high, middle), row + offset), (4, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
            label = "_" + label  # one legend entry a colour
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="x")
    add_legend(axes, 2)


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches, without a background."""
    figure = Figure(figsize=size, dpi=72, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def add_legend(axes: Axes, columns: int) -> None:
    """Name what was drawn, above the axes; nothing where nothing was."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.2,
            columnspacing=1.2, handletextpad=0.5, fontsize="medium",
        )  # fmt: skip


def whole_steps(axes: Axes) -> None:
    """Mark no half steps on the horizontal axis."""
    axes.xaxis.get_major_locator().set_params(integer=True)


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _cycle(colours: Sequence[str], count: int) -> list[str]:
    return [colours[i % len(colours)] for i in range(count)]


def as_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element for the inside of an HTML page."""
    text: Any = io.StringIO()
    # Element names are hashes of what they name; the salt would be random otherwise.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # In HTML neither namespace is needed, ids are shared by the whole page, and the size comes from the style sheet.
    svg = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg[: svg.index(">")]) + svg[svg.index(">") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:)?href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1).rstrip()
