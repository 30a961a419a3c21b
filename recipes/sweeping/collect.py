"""A sweep's numbers in one object, which is its JSON file and from which its page and its part of a report are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossthink.errors import UserError
from recipes.reporting.over_seeds import BASE, FORMAT
from recipes.sweeping.arms import Arm
from recipes.sweeping.claims import RULE, judge
from recipes.sweeping.results import MEASURES, Result, over_seeds, read_result, tokens_over_seeds


def collect(
    title: str,
    note: str,
    arms: Sequence[Arm],
    evaluations: Mapping[str, Mapping[int, Path]],
    unfinished: Mapping[str, str],
    singles: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Everything that the tables show.

    Args:
        title: of the page.
        note: what was trained on what, for the reader.
        arms: in the order of the tables; `base` comes first where it was evaluated.
        evaluations: finished ones, by arm and seed.
        unfinished: what is missing, and why.
        singles: mean accuracy after training on one source alone, by source.

    Raises:
        UserError: two evaluations asked different questions, or one cannot be read.
    """
    results = {name: {seed: read_result(path) for seed, path in some.items()} for name, some in evaluations.items()}
    _check_same_questions(results)
    benchmarks = list(next(iter(next(iter(results.values())).values())).accuracy) if results else []
    known = {arm.name: arm for arm in arms}
    order = [name for name in (BASE, *known) if results.get(name)]
    return {
        "format": FORMAT,
        "title": title,
        "note": note,
        "benchmarks": benchmarks,
        "arms": {name: _arm(known.get(name), results[name], benchmarks) for name in order},
        "claims": judge(results),
        "rule": RULE,
        "singles": dict(singles or {}),
        "unfinished": dict(unfinished),
        "questions_sha256": _first(results).questions_sha256 if results else None,
    }


def _arm(arm: Arm | None, paired: Mapping[int, Result], benchmarks: Sequence[str]) -> dict[str, Any]:
    """The numbers of an arm. A base model that all seeds start from is one evaluation, whatever it is paired with."""
    seeds = {one.where: seed for seed, one in reversed(list(paired.items()))}
    results = {seed: one for seed, one in paired.items() if seeds[one.where] == seed}
    return {
        "blend": arm and arm.blend,
        "table": arm and arm.table,
        "counterpart": arm and arm.counterpart,
        **{measure: over_seeds(results, measure) for measure in MEASURES},
        "benchmarks": {name: over_seeds(results, name) for name in benchmarks},
        "tokens": {measure: tokens_over_seeds(results, measure) for measure in MEASURES},
        "evaluations": {str(seed): one.where for seed, one in results.items()},
    }


def _check_same_questions(results: Mapping[str, Mapping[int, Result]]) -> None:
    if not results:
        return
    first = _first(results)
    for some in results.values():
        for one in some.values():
            if one.questions_sha256 != first.questions_sha256:
                raise UserError(
                    f"{one.where} and {first.where} asked different questions (SHA-256 {one.questions_sha256[:12]} and "
                    f"{first.questions_sha256[:12]}). Remove the one that is out of date, and add resume=true."
                )


def _first(results: Mapping[str, Mapping[int, Result]]) -> Result:
    return next(iter(next(iter(results.values())).values()))
