"""Progress bars of data preparation: rows and rows a second of what is being done now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text


class Progress:
    """`with Progress() as progress: with progress.task("math") as advance: advance(rows)`. Writes to stderr."""

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.completed:,} rows"),
            _Speed(),
            TimeElapsedColumn(),
        )
        self._bars = Bars(*columns, console=Console(stderr=True))

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def task(self, name: str) -> Iterator[Callable[[int], None]]:
        """A line of its own; what is yielded is told how many more rows are done."""
        task = self._bars.add_task(name, total=None)
        yield lambda rows: self._bars.advance(task, rows)
        done = self._bars.tasks[task].completed
        self._bars.update(task, total=done, completed=done)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._bars.console.print(text, highlight=False)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:,.0f} rows/s")
