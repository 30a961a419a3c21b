"""Credit: which advantage and which weight every response token gets, from verdicts, log-probs and values.

Shape letters: p prompts, g samples of a prompt, b = p · g samples, t response tokens, n tokens of all samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from conf.algorithm import AlgorithmConfig
from recipes.actors.interface import TokenizedSample
from recipes.rl.advantages import group_advantages
from recipes.rl.averaging import token_weights
from recipes.rl.batch import RolloutBatch, with_per_token
from recipes.rl.gae import gae, token_rewards, whiten
from recipes.rl.kl import ESTIMATORS
from recipes.rl.overlong import overlong_penalties


def with_advantages(
    batch: RolloutBatch, tokenized: Sequence[TokenizedSample], algorithm: AlgorithmConfig, max_response_tokens: int
) -> list[TokenizedSample]:
    """Add `advantages`, and for PPO `returns`, counted over `batch`, which is the whole rollout.

    Args:
        batch: the samples with their verdicts.
        tokenized: the same samples for the actor. With `kl_in=reward` they have `old_log_probs` and
            `reference_log_probs`, for PPO the critic's `values`.
        algorithm: which algorithm, and its options.
        max_response_tokens: where responses are cut off.
    """
    if algorithm.name == "ppo":
        return _token_advantages(batch, tokenized, algorithm, max_response_tokens)
    return _group_advantages(batch, tokenized, algorithm, max_response_tokens)


def with_weights(
    part: RolloutBatch, tokenized: Sequence[TokenizedSample], algorithm: AlgorithmConfig, max_response_tokens: int
) -> list[TokenizedSample]:
    """Add `weights`, counted over `part`, one optimizer step: they average a loss over its counted samples."""
    weights = token_weights(
        algorithm.average, [s.response_length for s in tokenized], counted_samples(part, algorithm), max_response_tokens
    )
    return with_per_token(
        tokenized,
        weights=[torch.full((s.response_length,), weight) for s, weight in zip(tokenized, weights, strict=True)],
    )


def counted_samples(batch: RolloutBatch, algorithm: AlgorithmConfig) -> list[bool]:
    """Which samples have a weight in loss, KL and metrics: those with a valid verdict.

    GRPO also leaves out a group with fewer than two of them; for PPO a group is only a way of drawing. With
    `mask_truncated` a response that was cut off has no weight either; its reward stays in the group's statistics.
    """
    counted_pg = batch.valid_pg
    if algorithm.name != "ppo":
        counted_pg = counted_pg & (counted_pg.sum(dim=1, keepdim=True) >= 2)
    return [
        ok and not (algorithm.mask_truncated and sample.truncated)
        for ok, sample in zip(counted_pg.flatten().tolist(), batch.samples, strict=True)
    ]


def _group_advantages(
    batch: RolloutBatch, tokenized: Sequence[TokenizedSample], algorithm: AlgorithmConfig, max_response_tokens: int
) -> list[TokenizedSample]:
    """The group-relative advantage of a response, at each of its tokens.

    What comes off the rewards counts in mean and standard deviation: where all verdicts of a group are equal, the KL or
    the length alone ranks its responses, and the division by the standard deviation blows that up to full size.
    """
    rewards_pg = _rewards(batch, algorithm, max_response_tokens)
    penalties = _kl_penalties(tokenized, algorithm)
    if penalties:
        rewards_pg = rewards_pg - torch.stack([p.sum() for p in penalties]).view_as(rewards_pg)
    advantages_pg = group_advantages(
        rewards_pg,
        batch.valid_pg,
        unbiased=algorithm.unbiased_std,
        epsilon=algorithm.advantage_epsilon,
        divide_by_std=algorithm.divide_by_std,
    )
    advantages = advantages_pg.flatten().tolist()
    return with_per_token(
        tokenized, advantages=[torch.full((s.response_length,), a) for s, a in zip(tokenized, advantages, strict=True)]
    )


def _token_advantages(
    batch: RolloutBatch, tokenized: Sequence[TokenizedSample], algorithm: AlgorithmConfig, max_response_tokens: int
) -> list[TokenizedSample]:
    """GAE's advantage and return of each token. Samples that do not count have 0 and take no part in the whitening."""
    lengths_b = torch.tensor([s.response_length for s in tokenized])
    penalties = _kl_penalties(tokenized, algorithm)
    rewards_bt = token_rewards(
        _rewards(batch, algorithm, max_response_tokens).flatten(),
        lengths_b,
        pad_sequence(penalties, batch_first=True) if penalties else None,
    )
    values_bt = pad_sequence([s.per_token["values"] for s in tokenized], batch_first=True)
    advantages_bt, returns_bt = gae(rewards_bt, values_bt, gamma=algorithm.gamma, lam=algorithm.gae_lambda)
    inside_bt = torch.arange(rewards_bt.shape[1]) < lengths_b[:, None]
    counted_bt = inside_bt & torch.tensor(counted_samples(batch, algorithm))[:, None]
    if algorithm.whiten:
        whitened_n = whiten(
            advantages_bt[counted_bt], unbiased=algorithm.unbiased_std, epsilon=algorithm.advantage_epsilon
        )
        advantages_bt = torch.zeros_like(advantages_bt).masked_scatter(counted_bt, whitened_n)
    return with_per_token(
        tokenized,
        advantages=_rows(torch.where(counted_bt, advantages_bt, 0.0), lengths_b),
        returns=_rows(torch.where(counted_bt, returns_bt, 0.0), lengths_b),
    )


def _rewards(batch: RolloutBatch, algorithm: AlgorithmConfig, max_response_tokens: int) -> Tensor:
    """[p, g], the verdicts' rewards less what a response loses for its length."""
    rewards_pg = batch.rewards_pg
    if algorithm.overlong_buffer == 0:
        return rewards_pg
    lengths_b = torch.tensor([len(s.response.token_ids) for s in batch.samples])
    lost_b = overlong_penalties(lengths_b, max_response_tokens, algorithm.overlong_buffer, algorithm.overlong_penalty)
    return rewards_pg - lost_b.view_as(rewards_pg)


def _kl_penalties(tokenized: Sequence[TokenizedSample], algorithm: AlgorithmConfig) -> list[Tensor]:
    """What the KL takes off each token's reward, float64 [response tokens] of each sample; empty where it does not.

    Of the policy that made the rollout, so that it is a reward: no gradient flows through it.
    """
    if algorithm.kl_in != "reward" or algorithm.kl == 0:
        return []
    estimator = ESTIMATORS[algorithm.kl_estimator]
    return [
        algorithm.kl * estimator(s.per_token["old_log_probs"].double(), s.per_token["reference_log_probs"].double())
        for s in tokenized
    ]


def _rows(values_bt: Tensor, lengths_b: Tensor) -> list[Tensor]:
    """float32 [response tokens] of each sample."""
    return [row[:length].float() for row, length in zip(values_bt, lengths_b.tolist(), strict=True)]
