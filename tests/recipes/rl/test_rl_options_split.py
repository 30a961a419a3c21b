"""For every option: the gradient is that of one padded batch, however the step is cut into micro-batches and ranks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_helpers import loss_over, loss_over_ranks, prompt, response, verdict

from conf.algorithm import ALGORITHMS, AVERAGES, KL_ESTIMATORS, KL_PLACES, AlgorithmConfig
from recipes.rl.batch import RolloutBatch, Sample, with_per_token
from recipes.rl.credit import with_advantages, with_weights
from recipes.rl.losses import ValueLoss, policy_loss

LONGEST = 6

ALGORITHM = st.builds(
    AlgorithmConfig,
    name=st.sampled_from(ALGORITHMS),
    kl=st.sampled_from([0.0, 0.5]),
    kl_estimator=st.sampled_from(KL_ESTIMATORS),
    kl_in=st.sampled_from(KL_PLACES),
    clip_high=st.sampled_from([None, 0.28]),
    dual_clip=st.sampled_from([None, 1.5]),
    average=st.sampled_from(AVERAGES),
    importance_cap=st.sampled_from([None, 1.1]),
    mask_truncated=st.booleans(),
    overlong_buffer=st.sampled_from([0, 3]),
    divide_by_std=st.booleans(),
    value_clip=st.sampled_from([None, 0.2]),
    whiten=st.booleans(),
)


@st.composite
def rollouts(draw):
    """A batch of one to three groups with invalid and truncated samples, and a generator for the rest."""
    group = draw(st.integers(1, 3))
    samples = [
        Sample(
            prompt(p, token_ids=range(1, 2 + draw(st.integers(0, 4)))),
            g,
            response(draw(st.integers(1, LONGEST)), draw(st.sampled_from(["stop", "length"]))),
            "text",
            verdict(draw(st.sampled_from([0.0, 1.0, None]))),
        )
        for p in range(draw(st.integers(1, 3)))
        for g in range(group)
    ]
    return RolloutBatch(samples, group), torch.Generator().manual_seed(draw(st.integers(0, 2**32)))


def close(one, other):
    assert torch.allclose(one.double(), other.double(), rtol=1e-5, atol=1e-6), (one, other)


@given(rollouts(), ALGORITHM, st.integers(1, 40), st.lists(st.integers(0, 2), min_size=9, max_size=9))
@settings(deadline=None, max_examples=150)
def test_the_split_changes_nothing(rollout, algorithm, budget, ranks):
    batch, random = rollout

    def drawn(scale):
        return [scale * torch.randn(len(s.response.token_ids), generator=random) for s in batch.samples]

    policy = [(-1 - x.abs()).requires_grad_() for x in drawn(1.0)]
    values = [x.requires_grad_() for x in drawn(0.5)]
    per_token = {
        "rollout_log_probs": [(p + x).detach() for p, x in zip(policy, drawn(0.2), strict=True)],
        "old_log_probs": [(p + x).detach() for p, x in zip(policy, drawn(0.3), strict=True)],
        "reference_log_probs": [(p + x).detach() for p, x in zip(policy, drawn(0.3), strict=True)],
        "values": [(v + x).detach() for v, x in zip(values, drawn(0.3), strict=True)],
    }
    samples = with_advantages(batch, with_per_token(batch.tokenized(), **per_token), algorithm, LONGEST)
    samples = with_weights(batch, samples, algorithm, LONGEST)
    for loss, leaves in ((policy_loss(algorithm), policy), (ValueLoss(algorithm.value_clip), values)):
        if isinstance(loss, ValueLoss) and algorithm.name == "grpo":
            continue
        whole, whole_sums = loss_over(loss, samples, leaves)
        wanted = torch.cat(torch.autograd.grad(whole, leaves))
        assert wanted.isfinite().all()
        total, sums = loss_over_ranks(loss, samples, leaves, ranks, budget)
        close(total, whole)
        close(torch.cat(torch.autograd.grad(total, leaves)), wanted)
        for name, value in whole_sums.items():
            close(torch.tensor(sums[name]), torch.tensor(value))
        for sample, gradient in zip(samples, wanted.split([len(x) for x in leaves]), strict=True):
            assert sample.per_token["weights"].any() or not gradient.any()
