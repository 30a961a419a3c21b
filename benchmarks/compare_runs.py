"""Two runs that should be one: where they differ, and whether it is a draw that fell on the border of two tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# What differs between equal runs: seconds and memory, and what is said of servers, which stand elsewhere.
TIMES = ("seconds", "tokens_per_second", "tflops", "peak_memory_mb", "mfu")
OF_SERVERS = ("rollout_", "refit_")
ROUNDING = 1e-6
"""Of what may differ where batching does, beside tokens and verdicts: loss, grad_norm, kl, ..."""
NOISE = 5e-5
"""Of how far log-probs of rollout and actor are apart (mismatch, logprob_error), which is float32's own rounding: its
largest over the thousands of tokens of a step was 2.3e-5."""


def metrics(out: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    path = out / "metrics.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def dump(out: Path, step: int) -> list[dict[str, Any]]:
    """The samples of a step, without milliseconds."""
    rows = [json.loads(line) for line in (out / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()]
    for row in rows:
        del row["verdict"]["elapsed_ms"]
    return rows


def differences(one: Path, other: Path, before: int = sys.maxsize) -> list[str]:
    """How two runs differ, beside seconds: tokens and verdicts must be the same, other numbers to rounding.

    Args:
        one: folder of a run.
        other: of another.
        before: only earlier steps than this are compared.
    """
    mine, theirs = ([line for line in metrics(run) if line["step"] < before] for run in (one, other))
    if [line["step"] for line in mine] != [line["step"] for line in theirs]:
        return [f"steps {[line['step'] for line in mine]} and {[line['step'] for line in theirs]}"]
    found = []
    for a, b in zip(mine, theirs, strict=True):
        step = a["step"]
        for key in sorted((a.keys() & b.keys()) - set(TIMES)):
            if key.startswith(OF_SERVERS):
                continue
            limit = NOISE if key.startswith(("mismatch", "logprob_error")) else ROUNDING
            if not _close(a[key], b[key], limit):
                found.append(f"step {step}: {key} {a[key]} and {b[key]}")
        for x, y in zip(dump(one, step), dump(other, step), strict=True):
            if not _same(x, y):
                found.append(f"step {step}: sample {x['sample']} of prompt {x['prompt_id']}")
    return found


def border_draw(one: Path, other: Path) -> str | None:
    """Where two runs part because one draw fell on the border of two tokens, or None where that is not why.

    A token is drawn by inverting the cumulative distribution in the order of ids, whose float32 logits other batches
    round otherwise. Now and then (docs/rollouts.md) a draw lies within that rounding of a border: one run then has the
    token on one side of it, the other run its neighbour, and nothing afterwards can be compared. So the runs must be
    equal in every earlier step, one sample alone must differ in this one, and first in ids that are next to each other.
    """
    steps = [line["step"] for line in metrics(one)]
    if steps != [line["step"] for line in metrics(other)]:
        return None
    for step in steps:
        pairs = zip(dump(one, step), dump(other, step), strict=True)
        parted = [(x, y) for x, y in pairs if not _same(x, y)]
        if not parted:
            continue
        if len(parted) > 1 or differences(one, other, before=step):
            return None
        x, y = parted[0]
        both = list(zip(x["token_ids"], y["token_ids"], strict=False))
        at = next((place for place, (a, b) in enumerate(both) if a != b), None)
        if at is None or abs(both[at][0] - both[at][1]) != 1:
            return None
        return (
            f"step {step}, sample {x['sample']} of prompt {x['prompt_id']}, token {at}: id {both[at][0]} (log-prob "
            f"{x['log_probs'][at]:.2f}) and {both[at][1]} ({y['log_probs'][at]:.2f})"
        )
    return None


def _same(x: dict[str, Any], y: dict[str, Any]) -> bool:
    return all(x[key] == y[key] for key in ("prompt_id", "sample", "token_ids", "weight_version", "verdict"))


def _close(a: Any, b: Any, limit: float) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= limit * max(1.0, abs(a), abs(b))
    return a == b
