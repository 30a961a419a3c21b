"""The paper's comparisons, and whether a sweep's runs agree with their direction. The rule is stated in `RULE`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.ablations import BLENDS
from recipes.reporting.over_seeds import BASE, FAILS, HOLDS, UNTOLD
from recipes.reporting.paper import PublishedRow, means, published_row
from recipes.sweeping.results import Results, paired, paired_tokens

RULE = (
    "A direction of the paper “holds” where the 95 % interval of our paired difference excludes 0 on the paper's side, "
    "“does not hold” where it excludes 0 on the other side, and “cannot be told at this scale” where it includes 0 or "
    "there are fewer than two seeds. Differences are paired by seed (same base policy, same data) and question. The "
    "interval of an accuracy is over seeds and questions: variance of the seeds' means plus the variance between "
    "questions that all seeds share. The interval of a length is over seeds alone. No correction is made for the "
    "number of comparisons, so of twenty without a difference one is expected to look like one."
)
_TOKENS = "tokens_"


@dataclass(frozen=True)
class Claim:
    """A comparison of two rows of a table: `measure` is mean, gpr, math, tokens_gpr or tokens_math."""

    table: int
    one: str
    other: str
    measure: str = "mean"


CLAIMS = (
    *(Claim(4, "gpr_up", other) for other in (BASE, *BLENDS) if other != "gpr_up"),
    Claim(4, "gpr_up", "only_mr", "gpr"),
    Claim(4, "gpr_up", "only_mr", "math"),
    Claim(5, "open", "nd"),
    Claim(6, "short", "only_gpr"),
    Claim(7, "filtered", "gpr_up"),
    Claim(9, "gpr_up", "only_mr", "tokens_gpr"),
    Claim(9, "gpr_up", "only_mr", "tokens_math"),
)


def verdict(published: float, interval: tuple[float, float] | list[float] | None) -> str:
    """Whether a direction holds, see `RULE`.

    Args:
        published: the paper's difference, not 0.
        interval: ours, or None.
    """
    if interval is None or interval[0] <= 0 <= interval[1]:
        return UNTOLD
    return HOLDS if (interval[0] > 0) == (published > 0) else FAILS


def judge(results: Results) -> list[dict[str, Any]]:
    """Every comparison for which there are runs of both arms: the paper's difference, ours, and the verdict."""
    found = []
    for claim in CLAIMS:
        one, other = results.get(claim.one), results.get(claim.other)
        if not one or not other:
            continue
        if claim.measure.startswith(_TOKENS):
            ours = paired_tokens(one, other, claim.measure.removeprefix(_TOKENS))
        else:
            ours = paired(one, other, claim.measure)
        paper = published_difference(claim)
        if ours is None:
            ours = {"difference": None, "interval": None, "seeds": [], "questions": None}
        found.append({**vars(claim), "paper": paper, **ours, "verdict": verdict(paper, ours["interval"])})
    return found


def published_difference(claim: Claim) -> float:
    """The paper's difference: a share (0.01 is one per cent point), or tokens. Derived from its published rows."""
    one, other = (_published(claim, arm) for arm in (claim.one, claim.other))
    if claim.measure.startswith(_TOKENS):
        side = claim.measure.removeprefix(_TOKENS)
        return one.cells[side] - other.cells[side]
    if claim.measure == "mean":
        assert one.average is not None and other.average is not None
        return round((one.average - other.average) / 100, 4)
    key = {"gpr": "non_math", "math": "math"}[claim.measure]
    mine, theirs = means(one)[key], means(other)[key]
    assert mine is not None and theirs is not None
    return round((mine - theirs) / 100, 4)


def _published(claim: Claim, arm: str) -> PublishedRow:
    row = published_row(claim.table, arm)
    assert row is not None, f"Table {claim.table} has no row of {arm}"
    return row
