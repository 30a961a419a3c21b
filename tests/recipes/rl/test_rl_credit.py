"""Who gets which credit: every option of the advantages and weights, by hand."""

import math

import pytest
import torch
from rl_helpers import prompt, response, verdict

from conf.algorithm import AlgorithmConfig
from recipes.rl.batch import RolloutBatch, Sample, with_per_token
from recipes.rl.credit import counted_samples, with_advantages, with_weights

LONGEST = 8
PLAIN = {"divide_by_std": False}  # advantages are rewards less the group's mean


def batch_of(rewards, lengths, ends=None):
    """One group; `ends` are finish reasons."""
    ends = ends or ["stop"] * len(rewards)
    samples = [
        Sample(prompt(0), g, response(lengths[g], ends[g]), "text", verdict(reward)) for g, reward in enumerate(rewards)
    ]
    return RolloutBatch(samples, len(rewards))


def advantages(batch, tokenized=None, **options):
    algorithm = AlgorithmConfig(**options)
    found = with_advantages(batch, tokenized or batch.tokenized(), algorithm, LONGEST)
    return [s.per_token["advantages"].tolist() for s in found]


def test_dr_grpo():
    """Rewards 1, 0, 0 less 1/3; weights 1 / (3 · 8) for every token."""
    batch = batch_of([1.0, 0.0, 0.0], [2, 1, 3])
    assert advantages(batch, **PLAIN) == [pytest.approx([a] * n) for a, n in ((2 / 3, 2), (-1 / 3, 1), (-1 / 3, 3))]
    algorithm = AlgorithmConfig(average="constant", **PLAIN)
    for sample in with_weights(batch, batch.tokenized(), algorithm, LONGEST):
        assert sample.per_token["weights"].tolist() == pytest.approx([1 / 24] * sample.response_length)


def test_truncated_responses_leave_the_loss_and_stay_in_the_group():
    batch = batch_of([1.0, 0.0, None, 1.0], [2, 8, 3, 2], ["stop", "length", "stop", "stop"])
    algorithm = AlgorithmConfig(mask_truncated=True, average="token", **PLAIN)
    assert counted_samples(batch, algorithm) == [True, False, False, True]
    weights = [s.per_token["weights"].unique().tolist() for s in with_weights(batch, batch.tokenized(), algorithm, 8)]
    assert weights == [[0.25], [0.0], [0.0], [0.25]]
    assert [a[0] for a in advantages(batch, mask_truncated=True, **PLAIN)] == pytest.approx([1 / 3, -2 / 3, 0, 1 / 3])
    assert counted_samples(batch, AlgorithmConfig()) == [True, True, False, True]


def test_a_lone_valid_sample_counts_for_ppo_only():
    batch = batch_of([1.0, None], [2, 2])
    assert counted_samples(batch, AlgorithmConfig()) == [False, False]
    assert counted_samples(batch, AlgorithmConfig(name="ppo")) == [True, False]


def test_overlong_punishment_comes_before_the_groups_statistics():
    """Limit 8, buffer 4: 6 tokens lose 0.5 · 2, 8 tokens 1 · 2. Rewards 1, 1 - 1, 0 - 2; mean -1/3."""
    batch = batch_of([1.0, 1.0, 0.0], [4, 6, 8])
    found = advantages(batch, overlong_buffer=4, overlong_penalty=2.0, **PLAIN)
    assert [a[0] for a in found] == pytest.approx([4 / 3, 1 / 3, -5 / 3])


def with_log_probs(batch, differences):
    """Old log-probs of -1, and a reference that differs by what is given for each token."""
    tokenized = batch.tokenized()
    old = [torch.full((s.response_length,), -1.0) for s in tokenized]
    reference = [o - torch.tensor(d) for o, d in zip(old, differences, strict=True)]
    return with_per_token(tokenized, old_log_probs=old, reference_log_probs=reference)


def test_the_kl_comes_off_the_reward_before_the_groups_statistics():
    """k1 = log pi - log pi_ref: sums 0.5 and 0.5 + 1.0, coefficient 0.1: rewards 1 - 0.05 and 0 - 0.15."""
    batch = batch_of([1.0, 0.0], [1, 2])
    tokenized = with_log_probs(batch, [[0.5], [0.5, 1.0]])
    options = {"kl_in": "reward", "kl": 0.1, "kl_estimator": "k1"}
    assert [a[0] for a in advantages(batch, tokenized, **options, **PLAIN)] == pytest.approx([0.55, -0.55])
    k3 = {**options, "kl_estimator": "k3"}
    one, two = math.exp(-0.5) - 0.5, math.exp(-0.5) - 0.5 + math.exp(-1.0)
    middle = (1 - 0.1 * one - 0.1 * two) / 2
    assert advantages(batch, tokenized, **k3, **PLAIN)[0] == pytest.approx([1 - 0.1 * one - middle])
    # In the loss it leaves the advantages alone.
    assert advantages(batch, tokenized, kl=0.1, **PLAIN)[0] == pytest.approx([0.5])


def ppo_batch(batch, values, **options):
    """The samples with what PPO adds."""
    tokenized = with_per_token(batch.tokenized(), values=[torch.tensor(v) for v in values])
    return with_advantages(batch, tokenized, AlgorithmConfig(name="ppo", **options), LONGEST)


def test_ppo_by_hand():
    """gamma 1, lambda 0.5. Reward 1 after values 0.5, 0.7: delta 0.2, 0.3; A = 0.2 + 0.15, 0.3. Reward 0 after 0.4."""
    batch = batch_of([1.0, 0.0, None], [2, 1, 2])
    found = ppo_batch(batch, [[0.5, 0.7], [0.4], [math.nan, 9.0]], gae_lambda=0.5, whiten=False)
    assert found[0].per_token["advantages"].tolist() == pytest.approx([0.35, 0.3])
    assert found[0].per_token["returns"].tolist() == pytest.approx([0.85, 1.0])
    assert found[1].per_token["advantages"].tolist() == pytest.approx([-0.4])
    assert found[1].per_token["returns"].tolist() == pytest.approx([0.0], abs=1e-7)
    assert found[2].per_token["advantages"].tolist() == [0, 0] and found[2].per_token["returns"].tolist() == [0, 0]


def test_ppo_whitens_over_counted_tokens_only():
    batch = batch_of([1.0, 0.0, None], [2, 1, 2])
    values = [[0.5, 0.7], [0.4], [math.nan, 9.0]]
    plain = ppo_batch(batch, values, gae_lambda=0.5, whiten=False)
    raw = torch.cat([s.per_token["advantages"] for s in plain[:2]])
    wanted = (raw - raw.mean()) / (raw.std() + 1e-6)
    found = ppo_batch(batch, values, gae_lambda=0.5)
    assert torch.allclose(torch.cat([s.per_token["advantages"] for s in found[:2]]), wanted, atol=1e-6)
    assert not found[2].per_token["advantages"].any()
    for before, after in zip(plain, found, strict=True):  # the critic's target is not whitened
        assert torch.equal(before.per_token["returns"], after.per_token["returns"])


def test_ppo_takes_the_kl_off_each_tokens_reward():
    """Values 0 and lambda 1: the return of a token is what is still to come, 1 - 0.1 (k1 of it and of those after)."""
    batch = batch_of([1.0], [3])
    tokenized = with_per_token(with_log_probs(batch, [[0.5, -1.0, 2.0]]), values=[torch.zeros(3)])
    options = {"gae_lambda": 1.0, "whiten": False, "kl_in": "reward", "kl": 0.1, "kl_estimator": "k1"}
    (found,) = with_advantages(batch, tokenized, AlgorithmConfig(name="ppo", **options), LONGEST)
    assert found.per_token["returns"].tolist() == pytest.approx([1 - 0.15, 1 - 0.1, 1 - 0.2])


def test_ppo_punishes_length_at_the_last_token():
    batch = batch_of([1.0], [6])
    (found,) = ppo_batch(batch, [[0.0] * 6], overlong_buffer=4, whiten=False, gae_lambda=0.0)
    assert found.per_token["advantages"].tolist() == pytest.approx([0, 0, 0, 0, 0, 0.5])


def test_nothing_counted():
    batch = batch_of([None, None], [2, 3])
    for sample in with_weights(batch, ppo_batch(batch, [[1.0] * 2, [1.0] * 3]), AlgorithmConfig(name="ppo"), LONGEST):
        assert not any(sample.per_token[name].any() for name in ("advantages", "returns", "weights"))
