"""The policy's and the critic's loss, as pure functions of log-probabilities and values.

Shape letters: b samples, t positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from conf.algorithm import AlgorithmConfig
from conf.rollout import RolloutConfig
from recipes.rl.kl import ESTIMATORS


@dataclass(frozen=True)
class GrpoLoss:
    """The GRPO loss of the paper (Eq. 1) and its options, to be minimised. PPO's policy loss is the same.

    Per token: -min(r A, clip(r, 1 - clip, 1 + clip) A) + kl k3, with r = pi / pi_old; for GRPO A is constant over a
    response. `weights_bt` holds the average over the whole optimizer step (`recipes.rl.averaging`), in the paper's form
    1 / (responses · tokens of the response): the sum over all tokens is that average, however the step is split.

    Attributes:
        clip: ratio clip.
        kl: coefficient of the KL to the reference policy.
        kl_estimator: k1, k2 or k3 (`recipes.rl.kl`, which says what each does to the gradient).
        clip_high: upper ratio clip; None: `clip`.
        dual_clip: bound on a negative advantage's ratio (`surrogate`); None: none.
        importance_cap: bound on pi_old / pi_rollout (`truncated_importance`), by which a token's loss, KL included, is
            weighted; None: not weighted.
        mismatch_band: |log pi_old - log pi_rollout| above which a token counts in the sum `mismatch_outside`.
    """

    clip: float
    kl: float
    kl_estimator: str = AlgorithmConfig.kl_estimator
    clip_high: float | None = AlgorithmConfig.clip_high
    dual_clip: float | None = AlgorithmConfig.dual_clip
    importance_cap: float | None = AlgorithmConfig.importance_cap
    mismatch_band: float = RolloutConfig.mismatch_band

    def __call__(self, log_probs_bt: Tensor, per_token_bt: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss's part for these tokens, and the sums that metrics are made of.

        What stands at tokens of weight 0, NaN included, reaches neither the loss nor its gradient nor a sum.

        Args:
            log_probs_bt: float32 [b, t] with gradient; 0 outside responses.
            per_token_bt: `weights`, `advantages`, `rollout_log_probs`; `old_log_probs` where the policy has moved since
                the rollout (absent: r is 1 by construction); `reference_log_probs` where there is a reference policy.
        """
        counted_bt, log_probs_bt, tokens = _counted(log_probs_bt, per_token_bt)
        weights_bt = tokens["weights"]
        old_bt = tokens.get("old_log_probs", log_probs_bt.detach())
        ratio_bt = torch.exp((log_probs_bt - old_bt).clamp(-20.0, 20.0))
        gain_bt = surrogate(
            ratio_bt, tokens["advantages"], clip=self.clip, clip_high=self.clip_high, dual_clip=self.dual_clip
        )
        loss_bt = -gain_bt
        kl_bt = torch.zeros_like(log_probs_bt)
        if "reference_log_probs" in tokens:
            kl_bt = ESTIMATORS[self.kl_estimator](log_probs_bt, tokens["reference_log_probs"])
            loss_bt = loss_bt + self.kl * kl_bt
        # Against the weights that made the rollout: engines may differ there, the policy has not moved yet.
        mismatch_bt = torch.where(counted_bt, (tokens["rollout_log_probs"] - old_bt).detach().abs(), 0.0)
        sums = {
            "tokens": counted_bt.sum(),
            "kl": _sum(kl_bt, counted_bt),
            "clipped": _sum((gain_bt != ratio_bt * tokens["advantages"]).float(), counted_bt),
            "logprob_error": _sum(mismatch_bt.exp(), counted_bt),
            "mismatch": _sum(mismatch_bt, counted_bt),
            "mismatch_outside": _sum((mismatch_bt > self.mismatch_band).float(), counted_bt),
            "max_mismatch": mismatch_bt.max().double(),
        }
        if self.importance_cap is not None:
            importance_bt = truncated_importance(old_bt, tokens["rollout_log_probs"], self.importance_cap)
            weights_bt = weights_bt * importance_bt
            sums["importance"] = _sum(importance_bt, counted_bt)
        return (weights_bt * loss_bt).sum(), sums


def policy_loss(algorithm: AlgorithmConfig, mismatch_band: float = RolloutConfig.mismatch_band) -> GrpoLoss:
    """The policy loss that a config asks for."""
    return GrpoLoss(
        clip=algorithm.clip,
        kl=algorithm.kl if algorithm.kl_in == "loss" else 0.0,
        kl_estimator=algorithm.kl_estimator,
        clip_high=algorithm.clip_high,
        dual_clip=algorithm.dual_clip,
        importance_cap=algorithm.importance_cap,
        mismatch_band=mismatch_band,
    )


def surrogate(
    ratio_bt: Tensor, advantages_bt: Tensor, *, clip: float, clip_high: float | None, dual_clip: float | None
) -> Tensor:
    """min(r A, clip(r, 1 - clip, 1 + clip_high) A), the clipped objective of PPO (arXiv 1707.06347, Eq. 7).

    Args:
        ratio_bt: r = pi / pi_old, with gradient.
        advantages_bt: A.
        clip: lower clip, and the upper one where `clip_high` is None.
        clip_high: upper clip of its own, so that unlikely tokens may gain more (DAPO, arXiv 2503.14476, Eq. 10).
        dual_clip: c > 1: where A < 0 the objective is at least c A, so that a token whose r has run away does not rule
            the step (Ye et al., arXiv 1912.09729, Eq. 5).

    Returns:
        To be maximised; of the shape of `ratio_bt`.
    """
    high = clip if clip_high is None else clip_high
    gain_bt = torch.minimum(ratio_bt * advantages_bt, ratio_bt.clamp(1 - clip, 1 + high) * advantages_bt)
    if dual_clip is None:
        return gain_bt
    return torch.where(advantages_bt < 0, torch.maximum(gain_bt, dual_clip * advantages_bt), gain_bt)


def truncated_importance(old_log_probs_bt: Tensor, rollout_log_probs_bt: Tensor, cap: float) -> Tensor:
    """min(pi_old / pi_rollout, cap): what a token counts for where the rollout engine's numbers are not the actor's.

    Truncated importance sampling (Yao et al., "Your efficient RL framework secretly brings you off-policy RL training",
    2025; Espeholt et al., arXiv 1802.01561, Eq. 1). No gradient flows through it.
    """
    difference_bt = (old_log_probs_bt - rollout_log_probs_bt).detach().clamp(-20.0, 20.0)
    return torch.exp(difference_bt).clamp(max=cap)


@dataclass(frozen=True)
class ValueLoss:
    """The critic's loss, to be minimised: half the squared error against the return, with PPO's value clipping.

    Per token: max((V - R)², (V_old + clamp(V - V_old, ±clip) - R)²) / 2. Moving further than `clip` from the rollout's
    value wins nothing. Averaged by the same weights as the policy's loss.

    Attributes:
        clip: None: the plain squared error.
    """

    clip: float | None

    def __call__(self, values_bt: Tensor, per_token_bt: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss's part for these tokens, and the sums that metrics are made of.

        What stands at tokens of weight 0, NaN included, reaches neither the loss nor its gradient nor a sum.

        Args:
            values_bt: float32 [b, t] with gradient.
            per_token_bt: `weights`, `values` (of the critic at the rollout), `returns`.
        """
        counted_bt, values_bt, tokens = _counted(values_bt, per_token_bt)
        error_bt = (values_bt - tokens["returns"]).square()
        worst_bt = error_bt
        if self.clip is not None:
            moved_bt = tokens["values"] + (values_bt - tokens["values"]).clamp(-self.clip, self.clip)
            worst_bt = torch.maximum(error_bt, (moved_bt - tokens["returns"]).square())
        sums = {
            "tokens": counted_bt.sum(),
            "value_clipped": _sum((worst_bt != error_bt).float(), counted_bt),
        }
        return (tokens["weights"] * worst_bt / 2).sum(), sums


def _counted(predicted_bt: Tensor, per_token_bt: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """bool [b, t], True where a token has a weight; and both arguments with 0 elsewhere.

    Replaced, not multiplied by 0: NaN · 0 is NaN, in the gradient too.
    """
    counted_bt = per_token_bt["weights"] > 0
    tokens = {name: torch.where(counted_bt, values_bt, 0.0) for name, values_bt in per_token_bt.items()}
    return counted_bt, torch.where(counted_bt, predicted_bt, 0.0), tokens


def _sum(values_bt: Tensor, counted_bt: Tensor) -> Tensor:
    return torch.where(counted_bt, values_bt.detach(), 0.0).sum(dtype=torch.float64)
