"""Estimators of the KL divergence to the reference policy, per token (Schulman, "Approximating KL divergence", 2020).

All estimate KL(pi || pi_ref) from tokens that pi drew. Put into the loss and differentiated they do different things:

- k3's gradient is (1 - pi_ref / pi) times that of log pi: in expectation the gradient of KL(pi_ref || pi), the other
  direction. The paper's choice; its pull on a token that pi_ref never gives is bounded.
- k2's gradient is (log pi - log pi_ref) times that of log pi: in expectation the gradient of KL(pi || pi_ref).
- k1's gradient is that of log pi alone, whatever pi_ref is: in expectation zero. In the loss it adds noise and no pull;
  its place is the reward (`algorithm.kl_in=reward`), where it is not differentiated.

The difference of log-probs is held within ±20 so that one runaway token cannot overflow (NeMo-RL and verl do the same).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _difference(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    return (reference_log_probs - log_probs).clamp(-20.0, 20.0)


def k1(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """log pi - log pi_ref, per token: unbiased, and negative where the reference likes the token better."""
    return -_difference(log_probs, reference_log_probs)


def k2(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """(log pi - log pi_ref)² / 2, per token: biased, never negative."""
    return _difference(log_probs, reference_log_probs).square() / 2


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log pi_ref - log pi, per token: unbiased, never negative (paper, Eq. 1).

    In float64, because at step 1 d is as small as rounding errors: expm1(d) - d in float32 would be noise of that size.
    """
    difference = _difference(log_probs, reference_log_probs).double()
    return (torch.expm1(difference) - difference).to(log_probs.dtype)


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
