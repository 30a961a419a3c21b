"""Marks for people: the table and the bars on a terminal, and the bars as an SVG picture."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import fields

from rich.console import Console
from rich.table import Column, Table

from recipes.marking.marks import Counts

WIDTH = 40  # of the longest bar on a terminal
_BAR, _GAP, _TALL = 46, 8, 160


def print_counts(by_source: Mapping[str, Counts], title: str) -> None:
    """Rows in, by outcome, and out, of every source."""
    names = [field.name for field in fields(Counts)]
    others = (Column(name.replace("_", " "), justify="right", no_wrap=True) for name in names)
    table = Table(Column("source", overflow="fold"), *others, title=title, title_justify="left")
    total = sum(by_source.values(), Counts())
    for name, counts in by_source.items():
        table.add_row(name, *(f"{getattr(counts, key):,}" for key in names))
    table.add_section()
    table.add_row("total", *(f"{getattr(total, key):,}" for key in names))
    Console(markup=False).print(table)


def bars(counts: Sequence[tuple[str, int]]) -> str:
    """A line of text for every label, its bar as long as its count asks for."""
    most = max(count for _, count in counts)
    wide = max(len(label) for label, _ in counts)
    lines = []
    for label, count in counts:
        bar = "█" * max(round(WIDTH * count / most), 1 if count else 0)
        lines.append(f"  {label:>{wide}}  {bar} {count:,}")
    return "\n".join(["pass rate of the rows asked:", *lines])


def svg(counts: Sequence[tuple[str, int]], title: str) -> str:
    """The same bars as a picture, the same bytes for the same counts."""
    most = max(1, *(count for _, count in counts))
    step = _BAR + _GAP
    width, height = step * len(counts) + _GAP, _TALL + 60
    parts = []
    for at, (label, count) in enumerate(counts):
        tall = _TALL * count / most
        left, middle = _GAP + at * step, _GAP + at * step + _BAR / 2
        parts.append(
            f'<rect x="{left}" y="{20 + _TALL - tall:.1f}" width="{_BAR}" height="{tall:.1f}" fill="#4a89bf"/>'
            f'<text x="{middle}" y="{14 + _TALL - tall:.1f}">{count:,}</text>'
            f'<text x="{middle}" y="{_TALL + 36}">{label}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui,sans-serif" font-size="11" text-anchor="middle" fill="#39424b">'
        f"<title>{html.escape(title)}</title>{''.join(parts)}"
        f'<text x="{width / 2}" y="{height - 6}">pass rate</text></svg>\n'
    )
