"""Drawing tokens so that a sample depends on its own numbers alone, not on what is drawn beside it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recipes.rollout.interface import Request, SamplingParams


def stream(request: Request, params: SamplingParams) -> np.random.Generator:
    """Where a sample's uniform numbers come from, one a token; in as many portions as the caller likes.

    Counter-based (Philox), keyed by (seed, step, prompt, sample): any rank, batch or restart draws the same numbers.
    """
    key = (params.seed, params.step, request.prompt, request.sample)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def draw(logits_bv: Tensor, uniform_b: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at `uniform_b`.

    Args:
        logits_bv: float32 [b, v]; ids from `params.vocabulary` on are masked.
        uniform_b: float64 [b] in [0, 1).

    Returns:
        ids int64 [b] and float32 [b], their log-probs at the temperature, top-p left aside.
    """
    logits_bv = logits_bv[:, : params.vocabulary].float()
    if params.temperature not in (0, 1):
        logits_bv = logits_bv / params.temperature
    log_probs_bv = logits_bv.log_softmax(dim=-1)
    if params.temperature == 0:
        ids_b = logits_bv.argmax(dim=-1)
    else:
        probs_bv = log_probs_bv.double().exp_()
        if params.top_p < 1:
            probs_bv = nucleus(probs_bv, params.top_p)
        cumulative_bv = probs_bv.cumsum(dim=-1)
        # Scaled by the sum, so that rounding never leaves a uniform beyond the last id.
        target_b1 = (uniform_b * cumulative_bv[:, -1])[:, None]
        ids_b = torch.searchsorted(cumulative_bv, target_b1, right=True)[:, 0].clamp(max=probs_bv.shape[-1] - 1)
    return ids_b, log_probs_bv.gather(1, ids_b[:, None])[:, 0]


def nucleus(probs_bv: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of most likely ids whose probabilities reach `top_p`."""
    ordered_bv, order_bv = probs_bv.sort(dim=-1, descending=True, stable=True)
    before_bv = ordered_bv.cumsum(dim=-1) - ordered_bv
    keep_bv = torch.zeros_like(probs_bv, dtype=torch.bool).scatter(1, order_bv, before_bv < top_p)
    return probs_bv * keep_bv
