"""The Markdown file of a comparison: its tables, without charts and answers."""

from __future__ import annotations

import re

import crossthink
from recipes.reporting.comparison import BELOW_SWEEP, READING, Report, subtitle
from recipes.reporting.tables import Row, SweepView, Table
from recipes.reporting.text import visible

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#!~$&])")


def render_markdown(report: Report) -> str:
    """The file's text."""
    parts = ["# CrossThink report", subtitle(report) + ".", READING]
    parts += [f"- {escape(note)}" for note in report.notes]
    if report.sweep:
        parts += [*sweep_parts(report.sweep), BELOW_SWEEP]
    if report.overview:
        parts += ["## Our evaluations", table_text(report.overview)]
    if report.differences or report.reasons:
        parts += ["## Paired differences, percentage points"]
        parts += [table_text(report.differences)] if report.differences else []
        parts += [f"Not compared: {escape(reason)}" for reason in report.reasons]
    parts += ["## Beside the paper", "“unknown” is a figure that the paper's accounts do not give."]
    for table in report.paper:
        parts += [f"### {escape(table.title)}", table_text(table)]
    for table in report.groups:
        parts += [f"## {escape(table.title)}", table_text(table)]
    if report.costs:
        parts += ["## Costs", table_text(report.costs)]
    parts += [f"Written by CrossThink {crossthink.__version__}. Paper: arXiv 2504.13941, table numbers of version 1."]
    return "\n\n".join(parts).encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def sweep_parts(sweep: SweepView) -> list[str]:
    """The parts of a sweep over its seeds: one a heading, a text or a table."""
    parts = [f"## {escape(sweep.title)}", escape(sweep.note)]
    for table in sweep.tables:
        parts += [f"### {escape(table.title)}", table_text(table)]
    return parts


def escape(text: str) -> str:
    """A text of any kind as Markdown shows it: one line, everything visible, nothing in it means anything."""
    return _marked(visible(text).replace("\n", "⏎"))


def _marked(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def table_text(table: Table) -> str:
    """A table without its title, its note below it."""
    lines = [["", *map(escape, table.columns)], ["---"] + ["---:"] * len(table.columns)]
    lines += [_line(row) for row in table.rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{escape(table.note)}" if table.note else text


def _line(row: Row) -> list[str]:
    label = escape(row.label) if not row.ours else f"**{escape(row.label)}**"
    cells = [_marked(cell.text) + (f" ({_marked('; '.join(cell.small))})" if cell.small else "") for cell in row.cells]
    return [f"{label} ({escape(row.small)})" if row.small else label, *cells]
