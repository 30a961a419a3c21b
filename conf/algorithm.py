"""The RL algorithm: `algorithm.*`, and PPO's value model: `critic.*`."""

from __future__ import annotations

from dataclasses import dataclass

ALGORITHMS = ("grpo", "ppo")
KL_ESTIMATORS = ("k1", "k2", "k3")
KL_PLACES = ("loss", "reward")
AVERAGES = ("sequence", "token", "constant")


@dataclass
class AlgorithmConfig:
    """GRPO as the paper states it (Eq. 1), and its options; or PPO with a critic."""

    name: str = "grpo"
    """grpo, or ppo (what `algorithm=NAME` sets)."""
    kl: float = 0.001
    """Coefficient of the KL to the reference policy; 0 needs no reference. [reported]"""
    kl_estimator: str = "k3"
    """Per token: k3, k2 or k1 (Schulman 2020). Their gradients in the loss differ: recipes/rl/kl.py. [reported]"""
    kl_in: str = "loss"
    """loss, or reward: taken off the response's reward (grpo) or each token's (ppo). [reported]"""
    clip: float = 0.2
    """Ratio clip: 1 - clip to 1 + clip. The paper does not state it; it never binds at updates_per_rollout=1. [ours]"""
    clip_high: float | None = None
    """Upper clip 1 + clip_high (DAPO's clip-higher, 0.28 there). null: as clip. [ours]"""
    dual_clip: float | None = None
    """Above 1: a negative advantage counts for at most this many times itself (Ye et al. 2020). null: off. [ours]"""
    average: str = "sequence"
    """sequence: mean over responses of token means (paper); token: mean over tokens (DAPO); constant: sum over tokens
    by responses × max_response_tokens (Dr. GRPO). [reported]"""
    importance_cap: float | None = None
    """Truncated importance sampling: token weights times min(pi_old / pi_rollout, cap). null: off. [ours]"""
    mask_truncated: bool = False
    """Overlong masking (DAPO): a response cut off at max_response_tokens leaves the loss. [ours]"""
    overlong_buffer: int = 0
    """Last tokens before max_response_tokens in which a response is punished for its length (DAPO). 0: none. [ours]"""
    overlong_penalty: float = 1.0
    """What a response of max_response_tokens loses of its reward; linear over the buffer. [ours]"""
    unbiased_std: bool = True
    """Divide by n - 1 in standard deviations, as verl does. [ours]"""
    advantage_epsilon: float = 1e-6
    """Added to standard deviations. [ours]"""
    divide_by_std: bool = True
    """grpo: advantages over the group's standard deviation; false: centred only (Dr. GRPO). [reported]"""
    dynamic_sampling: int = 0
    """grpo: most extra rollouts in a step that replace groups of equal rewards (DAPO). 0: they stay. [ours]"""
    gamma: float = 1.0
    """ppo: discount of a reward for each token that it lies ahead. [ours]"""
    gae_lambda: float = 0.95
    """ppo: lambda of generalised advantage estimation. [ours]"""
    value_clip: float | None = 0.2
    """ppo: how far a value may move from the rollout's before its loss counts no gain. null: free. [ours]"""
    whiten: bool = True
    """ppo: advantages to mean 0 and standard deviation 1 over the step's tokens. [ours]"""


@dataclass
class CriticConfig:
    """The value model of PPO, which starts from the policy's weights. Other settings of Adam are the policy's."""

    lr: float = 1e-5
    """Learning rate, constant after the warm-up. [ours]"""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up. [ours]"""
    clip_grad: float = 1.0
    """Global gradient norm limit. [ours]"""
    port: int | None = None
    """actor=aligner: loopback port of the critic server. null: a free one. [ours]"""
    deadline_s: float = 3600.0
    """actor=aligner: seconds that the critic server may take for one answer, a whole training step included. [ours]"""
