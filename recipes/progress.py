"""What a person watching a run sees: a live bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from conf.train import TrainConfig

PHASES = ("rollout", "reward", "log_probs", "values", "train", "refit")
LINE_EVERY_S = 15.0  # of an evaluation, where no terminal shows a bar


class RunProgress:
    """Shows step, reward, accuracy, phase seconds and the time that is left."""

    def __init__(self, config: TrainConfig, start: int) -> None:
        self.console = Console(stderr=True)
        self.steps = config.steps
        self.start = start
        self.began = time.monotonic()
        self.bar: Progress | None = None
        if self.console.is_terminal:
            columns = (
                TextColumn("[bold]train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            )  # fmt: skip
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("first rollout", total=config.steps, completed=start)
            self.bar.start()

    def step(self, metrics: dict[str, Any]) -> None:
        """Show one finished step."""
        seconds = metrics["seconds"]
        phases = " ".join(f"{name} {seconds[name]:.1f}" for name in PHASES if name in seconds)
        text = (
            f"reward {metrics['reward']:.3f}  accuracy {metrics['accuracy']:.3f}  format {metrics['format']:.3f}  "
            f"tokens {metrics['response_tokens']:.0f}  [{metrics['seconds']['total']:.1f} s: {phases}]"
        )
        if self.bar:
            self.bar.update(self.task, completed=metrics["step"], description=text.replace("[", r"\["))
            return
        done = metrics["step"] - self.start
        left = (self.steps - metrics["step"]) * (time.monotonic() - self.began) / done
        print(f"step {metrics['step']}/{self.steps}  {text}  left {left:.0f} s", file=self.console.file, flush=True)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self.bar:
            self.bar.stop()


class AnswerProgress:
    """Shows how many answers of an evaluation are there; elsewhere than on a terminal a line now and then."""

    def __init__(self, title: str) -> None:
        self.console = Console(stderr=True)
        self.title = title
        self.began = self.last = time.monotonic()
        self.start: int | None = None
        self.bar: Progress | None = None

    def __enter__(self) -> AnswerProgress:
        if self.console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("left"), TimeRemainingColumn(),
            )  # fmt: skip
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task(escape(self.title), total=None)
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, done: int, wanted: int) -> None:
        """Show `done` of `wanted` answers."""
        if self.start is None:
            self.start, self.began = done, time.monotonic()
        if self.bar:
            self.bar.update(self.task, completed=done, total=wanted)
            return
        now = time.monotonic()
        if now - self.last < LINE_EVERY_S and done < wanted:
            return
        self.last = now
        left = f"  left {(wanted - done) * (now - self.began) / (done - self.start):.0f} s" if done > self.start else ""
        print(f"{self.title}: {done}/{wanted} answers{left}", file=self.console.file, flush=True)
