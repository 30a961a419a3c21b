"""What happens to a source's rows, step by step, and the count of what each step drops.

The first steps look at one row (`data_prep/block.py`, in worker processes); from `gold` on they look at a whole source
and at the sources before it (`data_prep/source_run.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.rows import Question

STEPS = {
    "parse": "the reader makes a question of the raw row",
    "filter": "the paper's filter H, options that can be told apart, clean text",
    "decontaminate": "no question of a benchmark",
    "template": "the question template: T_MCQ or T_Open",
    "filter_open": "filter H again, for what T_Open made an open question",
    "prompt_length": "the prompt's tokens are within the budget",
    "gold": "the reward server can judge the ground truth",
    "duplicates": "the same question, here or in an earlier source",
    "near_duplicates": "nearly the same question, by MinHash",
    "sample": "a sample of what is left",
}
"""Every step in order, with what a row must be to pass it."""
SHOWN = 5  # dropped rows of a source kept for reading, for each step and reason
SHOWN_CHARACTERS = 2000


@dataclass
class Tally:
    """What became of the rows of one source, or of a part of it; parts add up in the order of the rows.

    Attributes:
        rows_in: raw rows read.
        dropped: step to reason to rows.
        shown: the first `SHOWN` dropped rows of each step and reason, as JSON-ready objects.
    """

    rows_in: int = 0
    dropped: dict[str, Counter[str]] = field(default_factory=lambda: {step: Counter() for step in STEPS})
    shown: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, step: str, reason: str, row: Mapping[str, Any]) -> None:
        """Count a dropped row and keep it for reading if it is one of the first of its kind."""
        self.dropped[step][reason] += 1
        if self.dropped[step][reason] <= SHOWN:
            self.shown.append({"step": step, "reason": reason, **row})

    def add(self, part: Tally) -> None:
        """Append the tally of the rows that follow."""
        for row in part.shown:
            # What the part's own count says is not how many there were before it.
            have = sum(1 for known in self.shown if (known["step"], known["reason"]) == (row["step"], row["reason"]))
            if have < SHOWN:
                self.shown.append(row)
        self.rows_in += part.rows_in
        for step, reasons in part.dropped.items():
            self.dropped[step].update(reasons)

    def counts(self) -> list[dict[str, Any]]:
        """Rows in, rows out and reasons of every step; each `in` is the `out` before it."""
        found, rows = [], self.rows_in
        for step, reasons in self.dropped.items():
            left = rows - sum(reasons.values())
            found.append({"step": step, "in": rows, "out": left, "dropped": dict(sorted(reasons.items()))})
            rows = left
        return found

    @property
    def rows_out(self) -> int:
        """Rows that passed every step."""
        return self.rows_in - sum(sum(reasons.values()) for reasons in self.dropped.values())

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return {"rows_in": self.rows_in, "dropped": self.dropped, "shown": self.shown}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tally:
        """Read what `to_json` gave."""
        tally = cls(rows_in=value["rows_in"], shown=list(value["shown"]))
        for step, reasons in value["dropped"].items():
            tally.dropped[step].update(reasons)
        return tally


def readable(question: Question) -> dict[str, Any]:
    """A question as `Tally.drop` keeps it: enough to judge whether dropping it was right."""
    golds: Iterable[str] = question.answers if question.kind != "mcq" else filter(None, [question.gold_label])
    return {
        "source": question.source,
        "file": question.file,
        "row": question.row,
        "question": _clean(question.question),
        "options": {label: _clean(text) for label, text in question.options or ()} or None,
        "gold": [_clean(gold) for gold in golds],
        "gold_text": None if question.gold_text is None else _clean(question.gold_text),
    }


def _clean(text: str) -> str:
    """Text that JSON files and terminals take, and not too much of it."""
    return text[:SHOWN_CHARACTERS].encode("utf-8", "backslashreplace").decode("utf-8")
