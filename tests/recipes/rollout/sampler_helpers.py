"""The uniform numbers that samples are drawn by, all of a sample's at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recipes.rollout.interface import Request, SamplingParams
from recipes.rollout.local.sampler import stream


def uniforms(requests: Sequence[Request], params: SamplingParams) -> Tensor:
    """One number for every token that could be drawn: float64 [requests, max_tokens]."""
    return torch.from_numpy(np.stack([stream(request, params).random(params.max_tokens) for request in requests]))
