"""The figure of a sweep: the paper's differences, and ours with their intervals."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossthink.files import atomic_file
from recipes.reporting.charts import INK, STYLE, add_legend, as_svg, new_figure
from recipes.reporting.tables import Direction

COLOURS = {"up": "#1d6b3a", "down": "#a32b2b", "even": "#8a929b"}


def directions_svg(directions: Sequence[Direction]) -> str:
    """The figure as SVG; empty where nothing was compared."""
    if not directions:
        return ""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure((7.4, _height(directions)))
        _draw(axes, directions)
        return as_svg(figure, "directions", "our differences with their 95 % intervals beside the paper's")


def directions_png(path: Path, directions: Sequence[Direction]) -> None:
    """The figure as PNG, written whole or not at all."""
    with matplotlib.rc_context({**STYLE, "font.size": 10}):
        figure = Figure(figsize=(8.6, 1.15 * _height(directions)), dpi=160, layout="constrained", facecolor="white")
        _draw(figure.subplots(), directions)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    with atomic_file(path, "wb") as handle:
        handle.write(picture.getvalue())


def _height(directions: Sequence[Direction]) -> float:
    return 1.0 + 0.27 * len(directions)


def _draw(axes: Axes, directions: Sequence[Direction]) -> None:
    axes.axvline(0, color=INK, linewidth=0.8)
    papers = [100 * one.paper for one in directions]
    paper = {"markersize": 6, "markerfacecolor": "none", "color": INK, "zorder": 4, "label": "the paper's"}
    axes.plot(papers, range(len(papers)), "D", **paper)
    for row, one in enumerate(directions):
        colour = COLOURS[one.verdict]
        if one.interval is not None:
            axes.plot([100 * bound for bound in one.interval], [row] * 2, color=colour, linewidth=2)
        name = "ours, with its 95 % interval" if row == 0 else "_"
        axes.plot([100 * one.ours], [row], "o", markersize=6, color=colour, label=name)
    axes.set_yticks(range(len(directions)), [one.label for one in directions])
    axes.set_ylim(len(directions) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("difference of accuracies, percentage points")
    axes.grid(axis="x")
    add_legend(axes, 2)
