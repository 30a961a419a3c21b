"""Verdicts as plain numbers, for protocols that have no null: an invalid one is an error, or a number that was set."""

from __future__ import annotations

from collections.abc import Sequence

from crossthink.errors import UserError
from reward_server.service import Refused
from reward_server.verdicts import CORRECT, ERROR, Item, Verdict, show

NAMED = 3
"""Invalid items that a message names."""


class InvalidItems(UserError):
    """Items that cannot be judged (`bad_gold`, `error`). They are no zeros, so there is no number for them.

    Attributes:
        transient: all of them are `error`: the same items may be judged at another time.
    """

    def __init__(self, message: str, transient: bool):
        super().__init__(message)
        self.transient = transient

    def __reduce__(self) -> tuple[type[InvalidItems], tuple[str, bool]]:
        """Trainers send it from their reward processes to the one that stops."""
        return type(self), (str(self), self.transient)


def to_numbers(items: Sequence[Item], verdicts: Sequence[Verdict], invalid_as: float | None) -> list[float]:
    """The rewards, one a verdict.

    Args:
        invalid_as: stands for an invalid verdict's reward.

    Raises:
        InvalidItems: there are invalid verdicts and no `invalid_as`; names the first of them.
    """
    check_valid(items, verdicts, invalid_as)
    return [reward_or(verdict, invalid_as) for verdict in verdicts]


def check_valid(items: Sequence[Item], verdicts: Sequence[Verdict], invalid_as: float | None) -> None:
    """Raise InvalidItems where there are invalid verdicts and no `invalid_as`."""
    invalid = [pair for pair in zip(items, verdicts, strict=True) if not pair[1].is_valid]
    if not invalid or invalid_as is not None:
        return
    named = "; ".join(complaint(item, verdict) for item, verdict in invalid[:NAMED])
    more = f"; and {len(invalid) - NAMED} more" if len(invalid) > NAMED else ""
    raise InvalidItems(
        f"{len(invalid)} of {len(items)} items cannot be judged, which is not the same as wrong: {named}{more}. "
        "Mend or drop these rows, or set invalid_as= to the number that shall stand for them.",
        transient=all(verdict.status == ERROR for _, verdict in invalid),
    )


def complaint(item: Item, verdict: Verdict) -> str:
    """What is wrong with an invalid item, in a few words."""
    about = "the grader failed" if verdict.status == ERROR else f"ground_truth {show(list(item.ground_truth))}"
    return f"{item.id}: {verdict.status}, kind {item.kind}, {about}"


def refused(error: InvalidItems) -> Refused:
    """The answer over HTTP: 422 for rows that will never be judged, 500 where the grader failed."""
    return Refused(500 if error.transient else 422, str(error))


def reward_or(verdict: Verdict, invalid_as: float | None) -> float:
    """The reward, or `invalid_as` in place of null."""
    if verdict.reward is None:
        assert invalid_as is not None, "checked by `check_valid`"
        return invalid_as
    return verdict.reward


def share(value: float | None, invalid_as: float | None) -> float:
    """A bit of a verdict as a number; for the null of an invalid one `invalid_as`, kept between 0 and 1."""
    return float(value) if value is not None else min(1.0, max(0.0, invalid_as or 0.0))


def score_of(verdict: Verdict, invalid_as: float | None) -> float:
    """R = R_acc ∧ R_format before any shaping: 0 or 1, by which trainers sort out too easy and too hard questions."""
    return share(None if verdict.reward is None else verdict.status == CORRECT, invalid_as)
