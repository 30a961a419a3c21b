"""What became of the documents, step by step: from the statistics that datatrove keeps of every task."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

STATS = "stats"
COMPLETIONS = "completions"
_DROPPED = "dropped_"


@dataclass(frozen=True)
class StepYield:
    """One step of a stage, over all its tasks.

    Attributes:
        step: its name.
        taken: documents that came in.
        given: documents that went on.
        dropped: the others by reason.
        other: further counts, of calls and tokens.
    """

    step: str
    taken: int
    given: int
    dropped: dict[str, int] = field(default_factory=dict)
    other: dict[str, float] = field(default_factory=dict)


def tasks_done(logs: Path) -> int:
    """How many tasks of a stage are done."""
    return sum(1 for _ in (logs / COMPLETIONS).glob("*"))


def finished(logs: Path, tasks: int) -> bool:
    """Whether every task of a stage is done."""
    return tasks_done(logs) >= tasks


def read_yields(logs: Path) -> list[StepYield]:
    """The steps of a stage that count documents, in their order."""
    sums: dict[str, Counter[str]] = {}
    for path in sorted((logs / STATS).glob("*.json")):
        for step in json.loads(path.read_text("utf-8")):
            name = step["name"].rpartition(": ")[2]
            known = sums.setdefault(name, Counter())
            for label, value in step["stats"].items():
                known[label] += value["total"] if isinstance(value, dict) else value
    # Writers count what they write and let nothing through: they are no steps of this kind.
    return [_yield(name, counts) for name, counts in sums.items() if counts["forwarded"] or counts["dropped"]]


def barren(yields: list[StepYield]) -> StepYield | None:
    """The first step that was given documents and let none through."""
    return next((one for one in yields if one.taken and not one.given), None)


def _yield(name: str, counts: Counter[str]) -> StepYield:
    dropped = {
        label.removeprefix(_DROPPED): int(count)
        for label, count in counts.items()
        if label.startswith(_DROPPED) and count
    }
    known = {"total", "forwarded", "dropped", *(_DROPPED + reason for reason in dropped)}
    other: dict[str, float] = {
        label: count for label, count in counts.items() if label not in known and not label.startswith("doc_len")
    }
    return StepYield(name, int(counts["total"]), int(counts["forwarded"]), dropped, other)
