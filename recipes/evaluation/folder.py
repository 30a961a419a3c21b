"""Reads the folder of a finished evaluation, and checks that its files hold what `crossthink eval` writes there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossthink.errors import ConfigError, UserError
from recipes.run_files import SAMPLES, SUMMARY

IDENTITY = "identity.json"
ANSWERS = "answers.jsonl"
SAMPLE_KEYS = (
    "benchmark", "id", "run", "source", "domain", "kind", "groups", "private", "question", "options", "ground_truth",
    "response", "tokens", "finish_reason", "verdict", "answer_accuracy",
)  # fmt: skip
VERDICT_KEYS = ("reward", "accuracy", "format", "status")
BLOCK_KEYS = (
    "questions", "judged", "runs", "answers", "invalid", "accuracy", "accuracy_interval", "tokens.right.mean",
    "tokens.right.count",
)  # fmt: skip
AVERAGE_KEYS = ("all", "non_math", "math", "intervals", "of", "missing")


@dataclass(frozen=True)
class EvaluationFolder:
    """A finished evaluation.

    Attributes:
        path: the folder.
        summary: what summary.json holds, see `recipes.evaluation.summary`.
        identity: what identity.json holds: which questions were asked, of whom, by which rules and protocol.
    """

    path: Path
    summary: dict[str, Any]
    identity: dict[str, Any]

    def samples(self) -> Iterator[dict[str, Any]]:
        """The judged answers, read line by line at each call.

        Raises:
            UserError: samples.jsonl cannot be read; the message names it and the line.
        """
        path = self.path / SAMPLES
        try:
            with open(path, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    yield _sample(line, f"{path}, line {number},")
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def read_evaluation(path: Path | str) -> EvaluationFolder:
    """Read a folder that was `out=` of `crossthink eval`.

    Raises:
        ConfigError: there is none, or it is not an evaluation.
        UserError: the evaluation is not finished, or one of its files cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{path} does not exist. Give the folder that was out= of `crossthink eval`.")
    if not (path / SUMMARY).is_file():
        if (path / ANSWERS).is_file():
            raise UserError(f"{path} is not finished: it has no {SUMMARY}. Run its `crossthink eval` with resume=true.")
        raise ConfigError(f"{path} is not an evaluation: it has no {SUMMARY}. Give out= of `crossthink eval`.")
    summary, identity = _read(path / SUMMARY), _read(path / IDENTITY)
    if lacking := next(_lacking(summary), None):
        raise UserError(f"{path / SUMMARY} does not hold what `crossthink eval` writes there: it has no '{lacking}'.")
    return EvaluationFolder(path, summary, identity)


def is_evaluation(path: Path) -> bool:
    """Whether there is a finished evaluation of `crossthink eval` in the folder."""
    return (path / SUMMARY).is_file() and (path / IDENTITY).is_file()


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold what `crossthink eval` writes there: it is no JSON object.")
    return value


def _lacking(summary: dict[str, Any]) -> Iterator[str]:
    """What whoever reads a summary needs, and this one has not, by dotted keys."""
    wanted = ("questions", "benchmarks", *(f"average.{key}" for key in AVERAGE_KEYS), "facts", *BLOCK_KEYS)
    yield from (key for key in wanted if not _holds(summary, key))
    for name, block in summary["benchmarks"].items():
        yield from (f"benchmarks.{name}.{key}" for key in (*BLOCK_KEYS, "groups") if not _holds(block, key))
        for group, blocks in block["groups"].items():
            for value, inner in blocks.items():
                place = f"benchmarks.{name}.groups.{group}.{value}"
                yield from (f"{place}.{key}" for key in BLOCK_KEYS if not _holds(inner, key))


def _holds(value: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    # Whatever is read further is a group of keys.
    return name not in ("benchmarks", "facts", "groups") or isinstance(value, dict)


def _sample(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:  # not UTF-8, or not JSON
        raise UserError(f"{where} cannot be read as JSON: {error}.") from error
    missing = [key for key in SAMPLE_KEYS if not isinstance(value, dict) or key not in value]
    if not missing:
        verdict = value["verdict"] if isinstance(value["verdict"], dict) else {}
        missing = [f"verdict.{key}" for key in VERDICT_KEYS if key not in verdict]
    if missing:
        raise UserError(f"{where} is no judged answer of `crossthink eval`: it has no '{missing[0]}'.")
    return value
