"""What a run folder holds once a job has worked in it: the names, and reading what is written line by line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from crossthink.errors import UserError

LOGS = "logs"
CHECKPOINTS, LATEST = "checkpoints", "latest"  # LATEST names the newest of them
METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts"
BAD_BATCHES = "bad_batches"  # samples of optimizer steps that were skipped
EVALUATIONS = "evaluations.jsonl"
TENSORBOARD = "tensorboard"
PROFILE = "profile"
TRACKING = "tracking.json"  # ids of the run in W&B and MLflow
REPORT_JSON = "report.json"
EVAL_BASE, EVAL_FINAL = "eval/base", "eval/final"  # the demo's evaluations before and after training
SUMMARY, SAMPLES = "summary.json", "samples.jsonl"  # the two files of an evaluation


def rollout_file(out: Path, step: int, folder: str = ROLLOUTS) -> Path:
    """Where the samples of a step are."""
    return out / folder / f"step_{step:06d}.jsonl"


def newest_step(out: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    pointer = out / CHECKPOINTS / LATEST
    found = re.search(r"\d+", pointer.read_text("utf-8")) if pointer.is_file() else None
    return int(found[0]) if found else 0


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; those that say nothing at its end are left out."""
    text = log.read_text("utf-8", errors="replace").rstrip() if log.is_file() else ""
    return "\n".join(text.splitlines()[-lines:]) or "(it said nothing)"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a record; a last line cut off by a kill is left out.

    Raises:
        UserError: a line is no JSON; names file and line.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")  # not splitlines(): texts may hold U+2028 and its kind
    return [_json(line, path, number) for number, line in enumerate(lines[:-1], 1)]


def _json(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:  # not UTF-8, or not JSON
        why = getattr(error, "msg", error)
        raise UserError(f"{path} cannot be read as JSON lines: line {number}: {why}. Mend or remove it.") from error
