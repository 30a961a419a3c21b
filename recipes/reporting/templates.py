"""The templates of the pages, and the filters that they know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recipes.reporting.text import duration, number, pct, points, visible


def render_template(name: str, view: dict[str, Any]) -> str:
    """A template of this folder with every value escaped, as text that UTF-8 takes."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(pct=pct, points=points, number=number, duration=duration, visible=visible)
    page = environment.get_template(name).render(view)
    # A file name or an answer may hold lone surrogates, which no encoding takes.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")
