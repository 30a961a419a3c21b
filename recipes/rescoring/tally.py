"""Counts what changed between two judgements of the same samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from recipes.rescoring.dump import Dumped
from reward_server.verdicts import STATUSES, Verdict


@dataclass
class Mean:
    """A mean that is built up value by value; None is left out of it."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Take one more value in."""
        if value is not None:
            self.total += value
            self.count += 1

    @property
    def value(self) -> float | None:
        """The mean, or None of nothing."""
        return self.total / self.count if self.count else None


@dataclass
class Pair:
    """Mean reward over the valid verdicts, old and new."""

    samples: int = 0
    old: Mean = field(default_factory=Mean)
    new: Mean = field(default_factory=Mean)

    def add(self, old: Verdict | None, new: Verdict) -> None:
        """Count one sample."""
        self.samples += 1
        self.old.add(old.reward if old else None)
        self.new.add(new.reward)

    def to_json(self) -> dict[str, Any]:
        """Samples and both means."""
        return {"samples": self.samples, "old": self.old.value, "new": self.new.value}


@dataclass
class Tally:
    """All counts of a rescore.

    Attributes:
        statuses: samples by (old status, new status); the old one is None where the dump holds no verdict.
        accuracies: samples by (old accuracy, new accuracy), of those that are valid in both.
        changed: samples whose reward, accuracy, format or status is another one.
    """

    all: Pair = field(default_factory=Pair)
    by_step: dict[int, Pair] = field(default_factory=dict)
    by_kind: dict[str, Pair] = field(default_factory=dict)
    statuses: Counter[tuple[str | None, str]] = field(default_factory=Counter)
    accuracies: Counter[tuple[int, int]] = field(default_factory=Counter)
    changed: int = 0
    invalid_old: int = 0
    invalid_new: int = 0

    def add(self, sample: Dumped, new: Verdict) -> bool:
        """Count one sample. Returns whether its verdict has changed."""
        old = sample.old
        for pair in (
            self.all,
            self.by_step.setdefault(sample.step, Pair()),
            self.by_kind.setdefault(sample.item.kind, Pair()),
        ):
            pair.add(old, new)
        self.statuses[old.status if old else None, new.status] += 1
        self.invalid_new += not new.is_valid
        if old is None:
            return False
        self.invalid_old += not old.is_valid
        if old.accuracy is not None and new.accuracy is not None:
            self.accuracies[old.accuracy, new.accuracy] += 1
        changed = differ(old, new)
        self.changed += changed
        return changed

    @property
    def without_old(self) -> int:
        """Samples for which the dump holds no verdict."""
        return sum(count for (old, _), count in self.statuses.items() if old is None)

    def disagreement(self) -> dict[str, Any]:
        """How often the two judgements of the answer alone (accuracy) differ."""
        compared = self.accuracies.total()
        lost, won = self.accuracies[1, 0], self.accuracies[0, 1]
        rate = (lost + won) / compared if compared else None
        return {"compared": compared, "right_to_wrong": lost, "wrong_to_right": won, "rate": rate}

    def to_json(self) -> dict[str, Any]:
        """The counts as they stand in summary.json."""
        order = {None: -1} | {status: place for place, status in enumerate(STATUSES)}
        statuses = sorted(self.statuses.items(), key=lambda one: (order[one[0][0]], order[one[0][1]]))
        return {
            "samples": self.all.samples,
            "without_old_verdict": self.without_old,
            "changed": self.changed,
            "invalid": {"old": self.invalid_old, "new": self.invalid_new},
            "status": [{"old": old, "new": new, "samples": count} for (old, new), count in statuses],
            "reward": {
                **self.all.to_json(),
                "by_step": {str(step): pair.to_json() for step, pair in sorted(self.by_step.items())},
                "by_kind": {kind: pair.to_json() for kind, pair in sorted(self.by_kind.items())},
            },
        }


def differ(old: Verdict, new: Verdict) -> bool:
    """Whether two verdicts say different things; what was extracted and how long it took are no part of it."""
    return any(getattr(old, name) != getattr(new, name) for name in ("reward", "accuracy", "format", "status"))
