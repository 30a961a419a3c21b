"""Which figures a run gets: takes their numbers from the run and has them drawn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from markupsafe import Markup

from recipes.reporting import charts
from recipes.reporting.run_data import GROUPS, RunData, Scores
from recipes.reporting.statistics import window

PHASES = {
    "rollout": "drawing answers from the policy",
    "reward": "waiting for the reward server's verdicts",
    "log_probs": "log-probabilities of the reference (and old) policy",
    "values": "values of PPO's critic",
    "train": "forward, backward and optimizer step",
    "refit": "handing the new weights to the rollout engine",
}
SHARES = {"reward": "R", "accuracy": "boxed accuracy", "format": "format"}
SMALL = {
    "kl": "KL to the reference policy, nats per token",
    "entropy": "Entropy, nats per token",
    "grad_norm": "Gradient norm before clipping",
    "zero_variance_groups": "Groups of equal rewards (no signal), %",
    "truncated": "Answers cut off by the length limit, %",
    "logprob_error": "Log-prob gap, mean exp|Δ| − 1",
}
FROM_ZERO = ("zero_variance_groups", "truncated")


def figures(data: RunData) -> dict[str, Any]:
    """SVG by the name that the page's template knows; empty where there is nothing to draw."""
    return {
        "groups": _group_figures(data),
        "curves": _share_curves(data),
        "length": _metric_curve(data, "length", "response_tokens", "mean tokens of an answer"),
        "small": [
            {"title": title, "svg": svg}
            for key, title in SMALL.items()
            if (svg := _metric_curve(data, key, key, "", small=True, from_zero=key in FROM_ZERO))
        ],
        "phases": _phase_bars(data),
        "window": window(len(data.steps)),
    }


def result_plot(data: RunData, path: Path) -> None:
    """Training curves and held-out results before and after in one PNG."""
    bars = [_bar("all", *data.overall)] if data.before or data.after else []
    for by in ("by_domain", "by_kind"):
        bars += [dataclasses.replace(bar, label=f"{GROUPS[by]} {bar.label}") for bar in _bars(data, by)]
    charts.result_png(path, _steps(data), _share_lines(data), bars, "right answers in the right form, %")


def phase_names(data: RunData) -> list[str]:
    """The phases that the run's steps were timed in, in the order in which they happen."""
    found = {name for step in data.steps for name in step.seconds} - {"total"}
    return [name for name in PHASES if name in found] + sorted(found - set(PHASES))


def _steps(data: RunData) -> list[int]:
    return [step.step for step in data.steps]


def _group_figures(data: RunData) -> list[dict[str, Any]]:
    return [
        {"title": title, "svg": Markup(charts.before_after(title, bars, "questions with R = 1, %"))}
        for by, title in GROUPS.items()
        if (bars := _bars(data, by))
    ]


def _bars(data: RunData, by: str) -> list[charts.Bar]:
    return [_bar(name, before, after) for name, before, after in data.groups(by)]


def _bar(label: str, before: Scores | None, after: Scores | None) -> charts.Bar:
    return charts.Bar(label, _with_interval(before), _with_interval(after))


def _with_interval(scores: Scores | None) -> tuple[float, float, float] | None:
    if scores is None or scores.reward is None or (interval := scores.interval("reward")) is None:
        return None
    return scores.reward, *interval


def _share_curves(data: RunData) -> str:
    if not data.steps:
        return ""
    rewards = [(one.step, one.all.reward) for one in data.evaluations]
    marks = [(step, reward) for step, reward in rewards if step is not None and reward is not None]
    return Markup(
        charts.curves(
            "curves", _steps(data), _share_lines(data), "sampled answers, %",
            share=True, marks=marks, marks_label="held-out R",
        )
    )  # fmt: skip


def _share_lines(data: RunData) -> list[charts.Line]:
    return [charts.Line(label, data.series(key), charts.SERIES[key]) for key, label in SHARES.items()]


def _metric_curve(data: RunData, name: str, key: str, label: str, small: bool = False, from_zero: bool = False) -> str:
    values = [_in_unit(data, key, value) for value in data.series(key)]
    if all(value is None for value in values):
        return ""
    lines = [charts.Line(key, values, charts.AFTER)]
    return Markup(charts.curves(name, _steps(data), lines, label, small=small, from_zero=from_zero))


def _in_unit(data: RunData, key: str, value: float | None) -> float | None:
    """A metric in the unit that its figure names."""
    if value is None:
        return None
    if key == "zero_variance_groups":
        prompts = data.config.get("prompts_per_step")
        return 100 * value / prompts if prompts else None
    return {"truncated": 100 * value, "logprob_error": value - 1}.get(key, value)


def _phase_bars(data: RunData) -> str:
    seconds = {name: [step.seconds.get(name, 0.0) for step in data.steps] for name in phase_names(data)}
    return Markup(charts.phases("phases", _steps(data), seconds)) if seconds else ""
