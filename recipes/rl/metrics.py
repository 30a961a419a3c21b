"""The line of metrics.jsonl that one training step leaves, from what the engines summed up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from recipes.actors.interface import StepResult, TokenizedSample
from recipes.rl.gae import explained_variance
from recipes.rl.skipped import Update

PER_TOKEN = ("kl", "entropy", "logprob_error", "mismatch", "mismatch_outside", "clipped", "importance")


def policy_metrics(updates: Sequence[Update]) -> dict[str, Any]:
    """Means over a training step's optimizer steps, and means over their counted tokens; skipped ones are left out.

    A value that is not finite, or the mean of nothing, is None: JSON knows no NaN.
    """
    taken = [update.policy for update in updates if update.policy.is_finite]
    names = [name for name in PER_TOKEN if name in updates[0].policy.sums]
    return {
        "loss": _mean([r.sums["loss"] for r in taken]),
        "grad_norm": _mean([r.grad_norm for r in taken]),
        **{name: _per_token(taken, name) for name in names},
        **({"mismatch_max": _largest(taken, "max_mismatch")} if "max_mismatch" in updates[0].policy.sums else {}),
        "skipped_steps": sum(bool(update.not_finite) for update in updates),
    }


def critic_metrics(updates: Sequence[Update], samples: Sequence[TokenizedSample]) -> dict[str, Any]:
    """Of the critic's optimizer steps, and of values and returns over the counted tokens of the step.

    Args:
        updates: the training step's optimizer steps.
        samples: what all of them were made from, with `weights`, `values` and `returns`.
    """
    results = [update.critic for update in updates if update.critic is not None]
    taken = [result for result in results if result.is_finite]
    counted = [s for s in samples if bool((s.per_token["weights"] > 0).any())]
    values_n, returns_n = (
        torch.cat([torch.zeros(0), *(s.per_token[name] for s in counted)]).double() for name in ("values", "returns")
    )
    return {
        "value_loss": _mean([r.sums["loss"] for r in taken]),
        "value_clipped": _per_token(taken, "value_clipped"),
        "critic_grad_norm": _mean([r.grad_norm for r in taken]),
        "explained_variance": _finite(explained_variance(values_n, returns_n)),
        "values": _mean(values_n.tolist()),
        "returns": _mean(returns_n.tolist()),
    }


def _per_token(results: Sequence[StepResult], name: str) -> float | None:
    if not results:
        return None
    tokens = max(1.0, sum(r.sums["tokens"] for r in results))
    return _finite(sum(r.sums[name] for r in results) / tokens)


def _largest(results: Sequence[StepResult], name: str) -> float | None:
    return _finite(max((r.sums[name] for r in results), default=None))


def _mean(values: Sequence[float]) -> float | None:
    return _finite(sum(values) / len(values)) if values else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
