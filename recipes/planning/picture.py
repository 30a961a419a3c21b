"""A plan as two stacked bar charts: memory by phase against the GPU's limit, seconds by phase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossthink.errors import ConfigError
from crossthink.files import atomic_file
from recipes.planning.gpus import GB
from recipes.planning.interface import Item, Job, PhaseMemory
from recipes.planning.memory import HOST
from recipes.planning.timing import Estimate
from recipes.reporting.charts import GRID, INK, STYLE

SUFFIXES = (".png", ".svg")
COLOURS = (
    "#4a89bf", "#c47a3a", "#7a9e5a", "#9a80b8", "#c9b05a", "#8a929b", "#5fb0a5", "#b8657a", "#2a5a85", "#7d5a32",
    "#4f6b38", "#b9cbe0", "#e0b892", "#c7d6b4",
)  # fmt: skip
LIMIT = "#b03030"
SMALL = 0.01
"""Parts below this share of the longest bar are drawn as one, "other"."""


def check_picture(path: str) -> None:
    """Refuse another kind of file than a PNG or SVG.

    Raises:
        ConfigError: names the two.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"picture={path} is not allowed: the name ends in {' or '.join(SUFFIXES)}.")


def draw(path: Path, job: Job, phases: Sequence[PhaseMemory], found: Estimate | None) -> None:
    """Write the picture, atomically.

    Args:
        path: a PNG or SVG file.
        job: what is planned.
        phases: its memory; of each phase the fullest pipeline stage is drawn.
        found: its time; None draws memory alone.
    """
    fullest: dict[str, PhaseMemory] = {}
    for one in phases:
        if one.phase != HOST and (one.phase not in fullest or one.total > fullest[one.phase].total):
            fullest[one.phase] = one
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.4 if found else 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2 if found else 1, 1, squeeze=False)[:, 0]
        stage = "" if job.pipeline == 1 else ", the fullest pipeline stage"
        limit = None if job.gpu is None else job.gpu.memory_bytes / GB
        bars = {name: [_scaled(item, 1 / GB) for item in one.items] for name, one in fullest.items()}
        _stacked(axes[0], bars, f"memory of a rank by phase{stage}", "GB", limit)
        if limit is not None:
            assert job.gpu is not None
            axes[0].axvline(limit, color=LIMIT, linewidth=1.4)
            axes[0].annotate(
                f"{job.gpu.name}: {limit:.1f} GB", (limit, 1.0), (-4, 2), xycoords=("data", "axes fraction"),
                textcoords="offset points", color=LIMIT, ha="right", va="bottom", fontsize=8,
            )  # fmt: skip
        if found is not None:
            seconds = {phase.phase: list(phase.items) for phase in found.phases}
            _stacked(axes[1], seconds, f"seconds by phase; a step takes {found.step_s:.1f} s", "s", None)
        with atomic_file(path, "wb") as handle:
            figure.savefig(handle, format=path.suffix[1:].lower(), dpi=150)


def _scaled(item: Item, factor: float) -> Item:
    return Item(item.name, item.amount * factor, item.known, item.note)


def _stacked(axes: Axes, bars: dict[str, list[Item]], title: str, unit: str, limit: float | None) -> None:
    longest = max((sum(item.amount for item in items) for items in bars.values()), default=0.0)
    names: dict[str, str] = {}
    for row, items in enumerate(bars.values()):
        start, other = 0.0, 0.0
        for item in items:
            if item.amount < SMALL * longest:
                other += item.amount
                continue
            names.setdefault(item.name, COLOURS[len(names) % len(COLOURS)])
            axes.barh(row, item.amount, left=start, color=names[item.name], edgecolor="white", linewidth=0.6)
            start += item.amount
        axes.barh(row, max(other, 0.0), left=start, color=GRID, edgecolor="white", linewidth=0.6)
        total = start + other
        axes.annotate(f"{total:.1f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * max(longest, limit or 0.0) or 1.0)
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.xaxis.grid(True)
    handles = [matplotlib.patches.Patch(color=colour, label=name) for name, colour in names.items()]
    handles.append(matplotlib.patches.Patch(color=GRID, label="other"))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
