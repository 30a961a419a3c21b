"""Rewards of responses that come near the length limit."""

from __future__ import annotations

import torch
from torch import Tensor


def overlong_penalties(response_lengths: Tensor, limit: int, buffer: int, penalty: float) -> Tensor:
    """What each response loses of its reward: nothing up to limit - buffer tokens, then linearly up to `penalty`.

    DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13).

    Args:
        response_lengths: int [responses], tokens.
        limit: most tokens of a response.
        buffer: width of the ramp before the limit, in tokens; 0 punishes nothing.
        penalty: what a response of `limit` tokens loses.

    Returns:
        float64 [responses], 0 to `penalty`.
    """
    if buffer == 0:
        return torch.zeros(response_lengths.shape, dtype=torch.float64)
    over = (response_lengths.double() - (limit - buffer)) / buffer
    return penalty * over.clamp(0.0, 1.0)
