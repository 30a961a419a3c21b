"""The report page: gathers everything that the template names, and renders it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import crossthink
from recipes.evaluation.intervals import Interval, bootstrap_interval, mean
from recipes.reporting.examples import examples
from recipes.reporting.facts import choice, config_yaml, facts
from recipes.reporting.figures import PHASES, figures, phase_names
from recipes.reporting.notes import notes
from recipes.reporting.run_data import GROUPS, RunData, Scores
from recipes.reporting.statistics import apart
from recipes.reporting.templates import render_template
from recipes.reporting.text import NAMES, UNKNOWN, pct, points

TEMPLATE = "report.html.j2"
MEASURES = (
    ("reward", "Mean R", "right answer in the right form"),
    ("accuracy", "Boxed accuracy", "the box holds the right answer, whatever the form"),
    ("answer_accuracy", "Answer accuracy", "the last box, else the last number, label or word, is right"),
    ("format", "Format", "one think block, then a box, whatever the answer"),
    ("truncated", "Cut off", "answers that ran into the length limit"),
    ("tokens", "Length", "mean tokens of an answer"),
)
# By whether the lengths are of right boxes (`crossthink eval`) or of rewards (evaluations inside a run).
RIGHT_MEANS = {
    True: "the last box holds the right answer, whatever the form",
    False: "R = 1 (unshaped)",
}


def render(data: RunData) -> str:
    """The page as HTML."""
    return render_template(TEMPLATE, view(data))


def view(data: RunData) -> dict[str, Any]:
    """Everything that the template names."""
    before, after = data.overall
    flips = count_flips(data)
    trained = _phase_seconds(data, "total")
    tokens = sum(data.known("tokens"))
    return {
        "version": crossthink.__version__,
        "name": data.folder.resolve().name,
        "subtitle": _subtitle(data.config),
        "summary": _summary(data, flips),
        "notes": notes(data),
        "before": before,
        "after": after,
        "gain": _difference(before, after, "reward"),
        "gain_interval": flips and flips.interval,
        "steps": data.last_step,
        "steps_planned": data.config.get("steps"),
        "wall": data.wall_seconds,
        "trained": trained,
        "measures": _measures(before, after),
        "groups": _groups(data),
        "tokens": _lengths(data),
        "right_means": _right_means(before, after),
        "charts": figures(data),
        "flips": flips,
        "examples": examples(data),
        "phases": _phases(data, trained),
        "token_total": tokens or None,
        "token_rate": tokens / trained if tokens and trained else None,
        "mfu": mean(data.known("mfu")),
        "padding": mean(data.known("padding")),
        "peak_memory_mb": max(data.known("peak_memory_mb"), default=None),
        "invalid": max(data.known("invalid"), default=None),
        "facts": facts(data),
        "config_yaml": config_yaml(data.config),
    }


@dataclass(frozen=True)
class Flips:
    """How many questions turned right or wrong, or were right or wrong twice, among those judged both times."""

    count: int
    won: int
    lost: int
    right: int
    wrong: int

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the gain, by the same paired bootstrap as between two evaluations."""
        return bootstrap_interval([1.0] * self.won + [-1.0] * self.lost + [0.0] * (self.count - self.won - self.lost))


def count_flips(data: RunData) -> Flips | None:
    """The flips of a run; None where no question was judged both times."""
    pairs = list(data.rewards().values())
    if not pairs:
        return None
    won, lost, right, wrong = (pairs.count(pair) for pair in ((0, 1), (1, 0), (1, 1), (0, 0)))
    return Flips(len(pairs), won, lost, right, wrong)


def _subtitle(config: dict[str, Any]) -> str:
    size = (config.get("prompts_per_step"), config.get("samples_per_prompt"))
    parts = [
        f"model {choice(config, 'model')}",
        f"algorithm {choice(config, 'algorithm')}",
        f"{size[0]} prompts × {size[1]} answers a step" if all(size) else "",
        f"seed {config['seed']}" if "seed" in config else "",
    ]
    return " · ".join(part for part in parts if part)


def _summary(data: RunData, flips: Flips | None) -> str:
    """The result in one sentence."""
    before, after = data.overall
    if after and after.reward is not None:
        return _held_out_result(data.last_step, before, after, flips)
    if not data.steps:
        return "No training step is finished in this run yet."
    rewards = data.known("reward")
    if len(rewards) < 2:
        first = pct(rewards[0]) if rewards else UNKNOWN
        return f"One training step, mean R {first} on its sampled answers; the result on held-out questions is unknown."
    few = max(1, min(10, len(rewards) // 2))
    spans = (f"first {few} steps", f"last {few}") if few > 1 else ("first step", "last")
    return (
        f"Over {data.last_step} training steps mean R of the sampled answers went from {pct(mean(rewards[:few]))} "
        f"({spans[0]}) to {pct(mean(rewards[-few:]))} ({spans[1]}); the result on held-out questions is unknown."
    )


def _held_out_result(steps: int, before: Scores | None, after: Scores, flips: Flips | None) -> str:
    text = (
        f"After {steps} training {'step' if steps == 1 else 'steps'} the policy gives a right answer in the right "
        f"form to {pct(after.reward)} of {after.questions} held-out questions"
    )
    gain = _difference(before, after, "reward")
    if before is None or gain is None:
        return f"{text}; what it was before training was not measured."
    if round(gain, 3) == 0:
        return f"{text}, the same as before training."
    interval = ""
    if flips and flips.interval:
        low, high = flips.interval
        interval = f"; 95 % interval {points(low)} to {points(high)}"
    way = "up" if gain > 0 else "down"
    return f"{text}, {way} from {pct(before.reward)} before training ({points(gain)} points{interval})."


def _difference(before: Scores | None, after: Scores | None, key: str) -> float | None:
    one, other = getattr(before, key, None), getattr(after, key, None)
    return None if one is None or other is None else other - one


def _interval(scores: Scores | None, key: str) -> Interval | None:
    return scores.interval(key) if scores else None


def _measures(before: Scores | None, after: Scores | None) -> list[dict[str, Any]]:
    """A row a measure; only lengths are no shares."""
    if before is None and after is None:
        return []
    return [
        {
            "label": label,
            "meaning": meaning,
            "share": key != "tokens",
            "before": getattr(before, key, None),
            "after": getattr(after, key, None),
            "difference": _difference(before, after, key),
            "intervals": [None if key == "tokens" else _interval(side, key) for side in (before, after)],
        }
        for key, label, meaning in MEASURES
    ]


def _groups(data: RunData) -> list[dict[str, Any]]:
    found = [
        {
            "title": title,
            "rows": [
                _group(name if by == "by_source" else NAMES.get(name, name), before, after)
                for name, before, after in data.groups(by)
            ],
        }
        for by, title in GROUPS.items()
    ]
    return [group for group in found if group["rows"]]


def _group(label: str, before: Scores | None, after: Scores | None) -> dict[str, Any]:
    keys = ("reward", "answer_accuracy")
    return {
        "label": label,
        "questions": getattr(after or before, "questions", None),
        "cells": [
            {"value": getattr(side, key, None), "interval": _interval(side, key)}
            for key in keys
            for side in (before, after)
        ],
        "gains": [
            {
                "value": _difference(before, after, key),
                "apart": apart(_interval(before, key), _interval(after, key)),
            }
            for key in keys
        ],
    }


def _lengths(data: RunData) -> list[dict[str, Any]]:
    """Mean tokens of right and wrong answers, with how many answers each mean is of."""
    if not data.before and not data.after:
        return []
    rows = [(NAMES.get(name, name), before, after) for name, before, after in data.groups("by_domain")]
    return [
        {"label": label, "cells": [_length(side, key) for key in ("right", "wrong") for side in (before, after)]}
        for label, before, after in (*rows, ("all", *data.overall))
    ]


def _length(scores: Scores | None, verdict: str) -> dict[str, Any]:
    return {key: getattr(scores, f"{name}_{verdict}", None) for key, name in (("value", "tokens"), ("count", "count"))}


def _right_means(before: Scores | None, after: Scores | None) -> str:
    """What a right answer is to the lengths, which is said by who has measured them."""
    meanings = [RIGHT_MEANS[side.by_box] for side in (before, after) if side]
    if len(set(meanings)) < 2:
        return "".join(f"Right means {meaning}." for meaning in meanings[:1])
    return f"Right means {meanings[0]} before training, and {meanings[1]} after it: do not compare the two."


def _phase_seconds(data: RunData, phase: str) -> float | None:
    known = [step.seconds[phase] for step in data.steps if phase in step.seconds]
    return sum(known) if known else None


def _phases(data: RunData, total: float | None) -> list[dict[str, Any]]:
    rows = [(name, PHASES.get(name, ""), _phase_seconds(data, name)) for name in phase_names(data)]
    if total is not None:
        rows.append(("all", "whole training steps, checkpoints and evaluations apart", total))
    return [
        {
            "label": label,
            "meaning": meaning,
            "total": seconds,
            "mean": seconds / len(data.steps),
            "share": seconds / total if total else None,
        }
        for label, meaning, seconds in rows
        if seconds is not None
    ]
