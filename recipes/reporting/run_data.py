"""Reads a run folder, complete or not, and checks that its files hold what a run writes there."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crossthink.errors import ConfigError, UserError
from recipes.reporting.statistics import Interval, wilson
from recipes.run_files import (
    EVAL_BASE,
    EVAL_FINAL,
    EVALUATIONS,
    METRICS,
    REPORT_JSON,
    SAMPLES,
    SUMMARY,
    read_lines,
)
from recipes.run_folder import CONFIG, MANIFEST

MEANS = ("reward", "accuracy", "format", "answer_accuracy", "truncated", "tokens", "tokens_right", "tokens_wrong")
GROUPS = {"by_domain": "domain", "by_kind": "kind", "by_source": "source"}
# What a page counts with or looks into; all else of a config is shown as it stands, whatever version has written it.
CONFIG_TYPES: tuple[tuple[str, tuple[type, ...], str], ...] = (
    *((key, (dict,), "a group of keys") for key in ("actor", "reward")),
    *((key, (int,), "a whole number") for key in ("steps", "prompts_per_step")),
    *((f"actor.{name}_parallel", (int,), "a whole number") for name in ("tensor", "pipeline", "data")),
    *((key, (str,), "a name") for key in ("recipe", "blend.name")),
    ("blend", (dict, str), "a name or a group of keys"),
)


@dataclass(frozen=True)
class Scores:
    """What an evaluation found over some questions; None is not known. Shares are means over the judged questions.

    Attributes:
        judged: questions with a valid verdict.
        answers: to all questions, which may have been asked in several runs.
        invalid: answers without a valid verdict.
        by_box: an answer is right in `tokens_right` where its last box is, whatever its form; else where R = 1.
        count_right: how many answers `tokens_right` is the mean of.
        count_wrong: how many `tokens_wrong` is.
    """

    questions: int
    judged: int
    answers: int
    invalid: int
    by_box: bool
    count_right: int | None = None
    count_wrong: int | None = None
    reward: float | None = None
    accuracy: float | None = None
    format: float | None = None
    answer_accuracy: float | None = None
    truncated: float | None = None
    tokens: float | None = None
    tokens_right: float | None = None
    tokens_wrong: float | None = None

    def interval(self, key: str) -> Interval | None:
        """The 95 % Wilson interval of a share over the judged questions; None for a shaped reward that is no share."""
        share = getattr(self, key)
        return wilson(share, self.judged) if share is not None and 0 <= share <= 1 and self.judged > 0 else None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on held-out questions: over all of them, and by group."""

    all: Scores
    by_domain: dict[str, Scores]
    by_kind: dict[str, Scores]
    by_source: dict[str, Scores]
    step: int | None
    pool_sha256: str | None
    rules_hash: str | None
    too_long: int | None
    also_in_training: int | None


@dataclass(frozen=True)
class Answer:
    """A held-out question and the greedy answer to it. `reward` is None where it could not be judged."""

    source: str
    domain: str
    kind: str
    question: str
    options: dict[str, str]
    ground_truth: list[str]
    response: str
    tokens: int
    reward: float | None
    status: str


@dataclass(frozen=True)
class Step:
    """A line of metrics.jsonl. A value is None where the line holds no finite number; `seconds` are by phase."""

    step: int
    values: dict[str, float | None]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Manifest:
    """What the run said of itself when it began."""

    crossthink: str | None = None
    python: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunData:
    """What a run folder says. Whatever it does not hold is None or empty.

    Attributes:
        config: as it was written, by whatever version of CrossThink.
        before_answers: by prompt id, as `after_answers`.
        wall_seconds: of the whole job, where report.json tells them.
    """

    folder: Path
    config: dict[str, Any]
    manifest: Manifest
    steps: list[Step]
    evaluations: list[Evaluation]
    before: Evaluation | None
    after: Evaluation | None
    before_answers: dict[str, Answer]
    after_answers: dict[str, Answer]
    wall_seconds: float | None

    @property
    def last_step(self) -> int:
        """The last finished training step."""
        return self.steps[-1].step if self.steps else 0

    @property
    def overall(self) -> tuple[Scores | None, Scores | None]:
        """Scores over all questions, before and after."""
        return self.before.all if self.before else None, self.after.all if self.after else None

    def groups(self, by: str) -> list[tuple[str, Scores | None, Scores | None]]:
        """Name, scores before and scores after of every group of `by_domain`, `by_kind` or `by_source`."""
        before, after = (getattr(side, by) if side else {} for side in (self.before, self.after))
        return [(name, before.get(name), after.get(name)) for name in sorted({*before, *after})]

    def rewards(self) -> dict[str, tuple[float, float]]:
        """Rewards before and after of the questions judged both times, by prompt id."""
        pairs = {
            ident: (answer.reward, self.after_answers[ident].reward)
            for ident, answer in self.before_answers.items()
            if ident in self.after_answers
        }
        return {ident: (one, other) for ident, (one, other) in pairs.items() if one is not None and other is not None}

    def series(self, key: str) -> list[float | None]:
        """A metric over the training steps."""
        return [step.values.get(key) for step in self.steps]

    def known(self, key: str) -> list[float]:
        """The finite values of a metric over the training steps."""
        return [value for value in self.series(key) if value is not None]


def read_run(folder: Path, key: str = "run") -> RunData:
    """Read a run folder, which `key` named.

    Raises:
        ConfigError: it is missing or not a run folder.
        UserError: one of its files cannot be read, or holds something else.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{key}={folder} does not exist. Give the folder that was out= of `crossthink train` or demo."
        )
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{key}={folder} is not a run folder: it holds no {CONFIG}. "
            "Give the folder that was out= of `crossthink train` or demo."
        )
    config = read_config(folder / CONFIG)
    shaped = _is_shaped(config)
    evaluations = _read_lines(folder / EVALUATIONS, lambda line: _evaluation(line, shaped, int(line["step"])))
    before = _read_json(folder / EVAL_BASE / SUMMARY, lambda value: _evaluation(value, shaped))
    after = _read_json(folder / EVAL_FINAL / SUMMARY, lambda value: _evaluation(value, shaped))
    # A plain training run has its evaluations, if any, inside: the first stands for before, the last for after.
    if evaluations and not before and evaluations[0].step == 0:
        before = evaluations[0]
    if evaluations and not after and evaluations[-1].step:
        after = evaluations[-1]
    return RunData(
        folder=folder,
        config=config,
        manifest=_read_json(folder / MANIFEST, _manifest) or Manifest(),
        steps=_read_lines(folder / METRICS, _step),
        evaluations=evaluations,
        before=before,
        after=after,
        before_answers=dict(_read_lines(folder / EVAL_BASE / SAMPLES, _answer)),
        after_answers=dict(_read_lines(folder / EVAL_FINAL / SAMPLES, _answer)),
        wall_seconds=_read_json(folder / REPORT_JSON, lambda value: finite(value.get("seconds"))),
    )


def finite(value: Any) -> float | None:
    """A finite number, or None: JSON lines may hold NaN."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _is_shaped(config: dict[str, Any]) -> bool:
    """Whether rewards other than 0 and 1 were asked for."""
    shaping = (config.get("reward") or {}).get("shaping")
    return isinstance(shaping, dict) and any(
        shaping.get(key) for key in ("format_credit", "length_penalty", "source_weights")
    )


def _scores(value: dict[str, Any], shaped: bool) -> Scores:
    questions, invalid = int(value["questions"]), int(value.get("invalid") or 0)
    # The evaluations inside a run ask every question once, and say neither.
    judged, answers = int(value.get("judged", questions - invalid)), int(value.get("answers", questions))
    tokens = value.get("tokens")
    counts = value.get("right"), value.get("wrong")
    if "right" not in value and not shaped:
        counts = _counts(finite(value.get("reward")), judged)
    elif "right" not in value:  # earlier versions took every answer with a reward for right, wrong ones with credit too
        value = value | {"tokens_right": None, "tokens_wrong": None}
    if isinstance(tokens, dict):  # of `crossthink eval`; the evaluations inside a run state plain means
        right, wrong = tokens["right"], tokens["wrong"]
        counts = right.get("count"), wrong.get("count")
        value = value | {"tokens": tokens["mean"], "tokens_right": right["mean"], "tokens_wrong": wrong["mean"]}
    means = {name: finite(value.get(name)) for name in MEANS}
    by_box = isinstance(tokens, dict)
    return Scores(questions, judged, answers, invalid, by_box, count_right=counts[0], count_wrong=counts[1], **means)


def _counts(reward: float | None, judged: int) -> tuple[int | None, int | None]:
    """Right and wrong ones of the judged answers by their mean reward, for want of better; None if it is no share."""
    right = -1.0 if reward is None else reward * judged
    if not 0 <= right <= judged or abs(right - round(right)) > 1e-6:
        return None, None
    return round(right), judged - round(right)


def _evaluation(value: dict[str, Any], shaped: bool, step: int | None = None) -> Evaluation:
    facts = value.get("facts", value)
    groups = {by: {name: _scores(scores, shaped) for name, scores in value.get(by, {}).items()} for by in GROUPS}
    return Evaluation(
        all=_scores(value, shaped),
        by_domain=groups["by_domain"],
        by_kind=groups["by_kind"],
        by_source=groups["by_source"],
        step=step,
        pool_sha256=facts.get("pool_sha256"),
        rules_hash=facts.get("rules_hash"),
        too_long=facts.get("too_long"),
        also_in_training=facts.get("also_in_training"),
    )


def _answer(row: dict[str, Any]) -> tuple[str, Answer]:
    verdict = row["verdict"]
    question = row.get("question") or row.get("prompt") or ""
    options = row.get("options") or {}
    # Evaluations of the first release name the question as rollouts do, and hold the tokens themselves.
    return row["id"] if "id" in row else row["prompt_id"], Answer(
        source=row["source"],
        domain=row["domain"],
        kind=row["kind"],
        question=question,
        # Some sources keep the options inside the question's text.
        options={} if all(text in question for text in options.values()) else options,
        ground_truth=row["ground_truth"] or [],
        response=row["response"],
        tokens=row["tokens"] if "tokens" in row else len(row["token_ids"]),
        reward=finite(verdict["reward"]),
        status=verdict["status"],
    )


def _step(line: dict[str, Any]) -> Step:
    values = {key: finite(value) for key, value in line.items() if key not in ("step", "seconds")}
    seconds = {name: finite(value) for name, value in (line.get("seconds") or {}).items()}
    return Step(int(line["step"]), values, {name: value for name, value in seconds.items() if value is not None})


def _manifest(value: dict[str, Any]) -> Manifest:
    dicts = {key: dict(value.get(key) or {}) for key in ("packages", "facts", "machine")}
    return Manifest(crossthink=value.get("crossthink"), python=value.get("python"), **dicts)


def read_config(path: Path) -> dict[str, Any]:
    """The config.yaml of a run, as it was written by whatever version. Raises UserError where it cannot be read."""
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no configuration: expected keys and values.")
    for key, kinds, allowed in CONFIG_TYPES:
        group, _, name = key.rpartition(".")
        part = value.get(group) if group else value
        found = part.get(name) if isinstance(part, dict) else None
        if found is not None and not isinstance(found, kinds):
            raise UserError(f"{path} does not hold what a run writes there: {key}={found} is not {allowed}.")
    return value


def _read_json(path: Path, parse: Any) -> Any:
    if not path.is_file():
        return None
    with naming(path, "JSON"):
        return parse(json.loads(path.read_text("utf-8")))


def _read_lines(path: Path, parse: Any) -> list[Any]:
    with naming(path, "JSON lines"):
        return [parse(line) for line in read_lines(path)]


@contextlib.contextmanager
def naming(path: Path, form: str, writer: str = "a run") -> Iterator[None]:
    """Turn what goes wrong with a file's contents into a `UserError` that names the file, and who writes it."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as {form}: {error}.") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not hold what {writer} writes there ({error!r}).") from error
