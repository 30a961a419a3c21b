"""An evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

COLUMNS = ("questions", "accuracy", "95 % interval", "mean R", "format", "answer", "no box", "tokens")
PLAIN_WIDTH = 120
"""Of a table that goes into a file or a pipe."""


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """A table of blocks of summary.json, the average of the paper's benchmarks, and what to beware of."""
    console = _console()
    table = Table("", *COLUMNS, title=f"Evaluation {escape(str(out))}")
    blocks = [("all", summary), *summary["benchmarks"].items()]
    if len(summary["by_domain"]) > 1:
        blocks += [(f"domain {name}", block) for name, block in summary["by_domain"].items()]
    for name, block in blocks:
        table.add_row(escape(name), str(block["questions"]), *_cells(block))
    console.print(table)
    average = summary["average"]
    if average["of"]:
        console.print(f"mean of {len(average['of'])} benchmarks: {_number(average['all'], 4)}")
    for warning in warnings(summary):
        console.print(f"[yellow]{escape(warning)}")


def print_steps(steps: Sequence[Mapping[str, Any]], out: Path) -> None:
    """A table over the checkpoints of a run, as steps.json holds them."""
    table = Table("step", "questions", "accuracy", "95 %", "mean of benchmarks", "mean R", "tokens")
    table.title = f"Evaluation {escape(str(out))}"
    for one in steps:
        table.add_row(
            str(one["step"]), str(one["questions"]), _number(one["accuracy"]), _interval(one["accuracy_interval"]),
            _number(one["average"]["all"], 4), _number(one["reward"]), _number(one["tokens"]["mean"], 1),
        )  # fmt: skip
    _console().print(table)


def _console() -> Console:
    return Console() if Console().is_terminal else Console(width=PLAIN_WIDTH)


def warnings(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers must know of them."""
    facts, found = summary["facts"], []
    if summary["invalid"]:
        found.append(
            f"{summary['invalid']} answers could not be judged and are in no mean ({len(summary['bad_gold'])} "
            "questions have a ground truth that cannot be)."
        )
    if facts.get("too_long"):
        found.append(f"{facts['too_long']} questions were left out: prompt longer than max_prompt_tokens.")
    if facts.get("also_in_training"):
        found.append(f"{facts['also_in_training']} of these questions also stand in the training pool.")
    if summary["truncated"]:
        found.append(f"{summary['truncated']:.1%} of the answers were cut off at max_response_tokens.")
    return found


def _cells(block: Mapping[str, Any]) -> list[str]:
    shares = [_number(block[key]) for key in ("reward", "format", "answer_accuracy", "no_box")]
    return [
        _number(block["accuracy"]), _interval(block["accuracy_interval"]), *shares, _number(block["tokens"]["mean"], 1)
    ]  # fmt: skip


def _interval(bounds: Sequence[float] | None) -> str:
    return "–" if bounds is None else f"{bounds[0]:.3f}–{bounds[1]:.3f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
