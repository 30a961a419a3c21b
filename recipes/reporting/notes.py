"""What a reader of a report must know before believing a number."""

from __future__ import annotations

from recipes.reporting.facts import rules_of_run
from recipes.reporting.run_data import Evaluation, RunData
from recipes.reporting.text import pct

MUST_BE_FINITE = ("loss", "grad_norm", "kl", "entropy")


def notes(data: RunData) -> list[str]:
    """Sentences on what is missing, broken or not comparable; each once."""
    found = _missing(data)
    if data.before and data.after:
        found += _incomparable(data.before, data.after)
    for evaluation, when in ((data.before, "before"), (data.after, "after")):
        if evaluation:
            found += _blemishes(evaluation, when)
    hashes = [evaluation.rules_hash for evaluation in (data.before, data.after) if evaluation]
    rules = {rules for rules in hashes if rules is not None}
    ruled = rules_of_run(data)
    if ruled and (others := sorted(rules - {ruled})):
        found.append(f"Training was rewarded by other rules ({ruled}) than the evaluation ({', '.join(others)}).")
    for key in MUST_BE_FINITE:
        broken = [step.step for step in data.steps if step.values.get(key, 0.0) is None]
        if broken:
            found.append(f"{key} is not a finite number in {len(broken)} steps, first in step {broken[0]}.")
    if largest := max(data.known("invalid"), default=0):
        found.append(f"Up to {pct(largest)} of a training step's answers could not be judged and are left out.")
    return list(dict.fromkeys(found))


def _missing(data: RunData) -> list[str]:
    found = []
    planned = data.config.get("steps")
    if planned and data.last_step < planned:
        found.append(f"The run is not finished: {data.last_step} of {planned} planned steps.")
    if not data.before and not data.after:
        found.append(
            "No evaluation on held-out questions in this run folder, so accuracy before and after is unknown. "
            "“crossthink demo” makes both; eval.every=N makes them during training."
        )
    elif not data.before or not data.after:
        missing = "before" if not data.before else "after"
        found.append(f"No evaluation {missing} training in this run folder, so the gain is unknown.")
    return found


def _incomparable(before: Evaluation, after: Evaluation) -> list[str]:
    compared = (
        ("question pools", before.pool_sha256, after.pool_sha256),
        ("reward rules", before.rules_hash, after.rules_hash),
        ("numbers of questions", before.all.questions, after.all.questions),
    )
    return [
        f"Before and after were measured with different {what} ({one}, {other}): not comparable."
        for what, one, other in compared
        if one is not None and other is not None and one != other
    ]


def _blemishes(evaluation: Evaluation, when: str) -> list[str]:
    found = []
    if evaluation.also_in_training:
        found.append(f"{evaluation.also_in_training} of the questions also stand in the training pool.")
    if evaluation.all.invalid:
        of = f"{evaluation.all.invalid} of {evaluation.all.answers} answers {when} training"
        found.append(f"{of} could not be judged and are left out.")
    if evaluation.too_long:
        found.append(f"{evaluation.too_long} questions were left out {when} training: prompt too long.")
    return found
