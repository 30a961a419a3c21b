"""Group-relative advantages."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(
    rewards_pg: Tensor, valid_pg: Tensor, *, unbiased: bool, epsilon: float, divide_by_std: bool
) -> Tensor:
    """(r - mean) / (std + epsilon) inside each group, over its valid samples.

    The paper's A_i (Eq. 1). Samples that could not be judged take no part: they enter neither mean nor
    standard deviation, and their advantage is 0; so is that of a group with fewer than two valid samples.

    Args:
        rewards_pg: float [prompts, samples a prompt]; what stands at invalid places is ignored.
        valid_pg: bool [prompts, samples a prompt].
        unbiased: divide by n - 1 (verl's convention) instead of n.
        epsilon: added to the standard deviation.
        divide_by_std: False: r - mean alone (Dr. GRPO, arXiv 2503.20783, section 3.2), so that groups of nearly equal
            rewards do not count for more.

    Returns:
        float32 [prompts, samples a prompt].
    """
    rewards_pg = torch.where(valid_pg, rewards_pg, 0.0).double()
    count_p1 = valid_pg.sum(dim=1, keepdim=True)
    mean_p1 = rewards_pg.sum(dim=1, keepdim=True) / count_p1.clamp(min=1)
    centred_pg = torch.where(valid_pg, rewards_pg - mean_p1, 0.0)
    if not divide_by_std:
        return torch.where(count_p1 >= 2, centred_pg, 0.0).float()
    variance_p1 = centred_pg.square().sum(dim=1, keepdim=True) / (count_p1 - int(unbiased)).clamp(min=1)
    advantages_pg = centred_pg / (variance_p1.sqrt() + epsilon)
    return torch.where(count_p1 >= 2, advantages_pg, 0.0).float()


def useful_groups(rewards_pg: Tensor, valid_pg: Tensor) -> Tensor:
    """bool [prompts]: at least two valid rewards, not all equal. Any other group teaches nothing but the KL."""
    low_p = torch.where(valid_pg, rewards_pg, torch.inf).amin(dim=1)
    high_p = torch.where(valid_pg, rewards_pg, -torch.inf).amax(dim=1)
    return (valid_pg.sum(dim=1) >= 2) & (low_p != high_p)
