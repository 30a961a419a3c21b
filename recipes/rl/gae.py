"""Advantages of PPO: rewards of tokens, generalised advantage estimation, whitening.

Shape letters: b samples, t response tokens (right-padded with zeros), n tokens of all samples.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gae(rewards_bt: Tensor, values_bt: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over response tokens (Schulman et al., arXiv 1506.02438, Eq. 16).

        delta_t = r_t + gamma V_{t+1} - V_t,    A_t = delta_t + gamma lam A_{t+1},    return_t = A_t + V_t

    Nothing follows the last token: its V_{t+1} is 0. That also holds for a response cut off at the length limit, whose
    reward the judge has given for what stands there: no value is bootstrapped in place of what was never written.

    Args:
        rewards_bt: float [b, t], the reward that a token brings.
        values_bt: float [b, t], the critic's value before the token is drawn. Both are 0 in the padding.
        gamma: discount for each token.
        lam: 0 trusts the critic, 1 the rewards.

    Returns:
        Advantages and returns, float64 [b, t]; 0 in the padding.
    """
    rewards_bt, values_bt = rewards_bt.double(), values_bt.double()
    next_bt = torch.cat([values_bt[:, 1:], torch.zeros_like(values_bt[:, :1])], dim=1)
    delta_bt = rewards_bt + gamma * next_bt - values_bt
    advantages_bt = torch.zeros_like(delta_bt)
    following_b = torch.zeros_like(delta_bt[:, 0])
    for t in reversed(range(delta_bt.shape[1])):
        following_b = delta_bt[:, t] + gamma * lam * following_b
        advantages_bt[:, t] = following_b
    return advantages_bt, advantages_bt + values_bt


def token_rewards(rewards_b: Tensor, lengths_b: Tensor, penalties_bt: Tensor | None) -> Tensor:
    """Rewards of tokens: the response's at its last token, less each token's penalty.

    Args:
        rewards_b: float [b].
        lengths_b: int [b], response tokens.
        penalties_bt: float [b, t], for instance KL coefficient × KL estimate; 0 in the padding. None: none.

    Returns:
        float64 [b, t], t the longest response.
    """
    rewards_bt = torch.zeros(len(rewards_b), int(lengths_b.max()), dtype=torch.float64)
    rewards_bt[torch.arange(len(rewards_b)), lengths_b - 1] = rewards_b.double()
    return rewards_bt if penalties_bt is None else rewards_bt - penalties_bt.double()


def whiten(values_n: Tensor, *, unbiased: bool, epsilon: float) -> Tensor:
    """(x - mean) / (std + epsilon) over all of `values_n`; `unbiased` divides by n - 1 in the standard deviation.

    Returns:
        float64 [n]; of fewer than two values zeros.
    """
    values_n = values_n.double()
    centred_n = values_n - values_n.sum() / max(1, len(values_n))
    variance = centred_n.square().sum() / max(1, len(values_n) - int(unbiased))
    return centred_n / (variance.sqrt() + epsilon)


def explained_variance(values_n: Tensor, returns_n: Tensor) -> float | None:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for one that knows only the mean.

    None where returns do not differ.
    """
    values_n, returns_n = values_n.double(), returns_n.double()
    variance = float(returns_n.var(correction=0)) if len(returns_n) else 0.0
    return 1.0 - float((returns_n - values_n).var(correction=0)) / variance if variance > 0 else None
