"""The GRPO loss: the paper's Eq. 1, however a step is cut into micro-batches and ranks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_helpers import loss_over, loss_over_ranks, sample_of

from conf.algorithm import AlgorithmConfig
from recipes.rl.averaging import sequence_mean_weights
from recipes.rl.losses import GrpoLoss, ValueLoss, policy_loss, surrogate, truncated_importance

A = 0.5 / (math.sqrt(0.5) + 1e-6)  # the advantage of the right one of two samples, unbiased


def leaf(values):
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def per_token(length, advantage, weight, **others):
    """Per-token tensors of one response, all of one row."""
    return {
        "advantages": torch.full((1, length), advantage),
        "weights": torch.full((1, length), weight),
        "rollout_log_probs": torch.zeros(1, length),
        **{name: torch.tensor([values]) for name, values in others.items()},
    }


def test_two_responses_by_hand():
    """Rewards 1 and 0: advantages A and -A. The first has one token, the second three.

    Ratios 1.1 and 0.9, 1.0, 1.1, all within 1 ± 0.2. Mean over responses of the mean over tokens:
        objective = 1/2 · [1.1 A + 1/3 · (0.9 + 1.0 + 1.1) · (-A)] = 1/2 · (1.1 A - A) = 0.05 A
    The reference finds the first token twice as likely (k3 = 2 - ln 2 - 1) and agrees on the others:
        KL term = 0.001 · 1/2 · (1 - ln 2)
        loss = -0.05 A + 0.0005 · (1 - ln 2)
    A mean over all four tokens instead would give -(1.1 A - 3.0 A) / 4, of the other sign.
    """
    old = [torch.tensor([-1.0]), torch.tensor([-0.5, -2.0, -1.5])]
    ratios = [torch.tensor([1.1]), torch.tensor([0.9, 1.0, 1.1])]
    log_probs = [leaf((o + r.log()).tolist()) for o, r in zip(old, ratios, strict=True)]
    reference = [log_probs[0].detach() + math.log(2), log_probs[1].detach()]
    weights = sequence_mean_weights([1, 3], [True, True])
    assert weights == [1 / 2, 1 / 6]
    samples = [
        sample_of(
            log_probs[i],
            old_log_probs=old[i],
            reference_log_probs=reference[i],
            advantages=torch.full_like(old[i], advantage),
            weights=torch.full_like(old[i], weights[i]),
        )
        for i, advantage in enumerate((A, -A))
    ]
    loss, sums = loss_over(GrpoLoss(clip=0.2, kl=0.001), samples, log_probs)
    assert loss.item() == pytest.approx(-0.05 * A + 0.0005 * (1 - math.log(2)), abs=1e-7)
    assert sums["tokens"] == 4
    assert sums["kl"] == pytest.approx(1 - math.log(2), rel=1e-6)
    assert sums["clipped"] == 0
    # d loss / d log pi = -weight · ratio · advantage, and for the first token + kl · weight · (1 - 2).
    loss.backward()
    assert log_probs[0].grad.tolist() == pytest.approx([-0.5 * 1.1 * A - 0.001 * 0.5], rel=1e-5)
    assert log_probs[1].grad.tolist() == pytest.approx([A / 6 * r for r in (0.9, 1.0, 1.1)], rel=1e-5)


@pytest.mark.parametrize(
    ("advantage", "ratio", "objective", "slope", "clipped"),
    [
        # The minimum of r·A and clip(r)·A; where the clip binds nothing pulls any more.
        (2.0, 1.0, 2.0, 2.0, 0),
        (2.0, 1.1, 2.2, 2.2, 0),
        (2.0, 1.5, 2.4, 0.0, 1),  # a gain beyond 1 + clip counts no further
        (2.0, 0.5, 1.0, 1.0, 0),  # a loss does
        (-2.0, 1.1, -2.2, -2.2, 0),
        (-2.0, 0.5, -1.6, 0.0, 1),
        (-2.0, 1.5, -3.0, -3.0, 0),
        (0.0, 1.5, 0.0, 0.0, 0),
    ],
)
def test_the_clip(advantage, ratio, objective, slope, clipped):
    """objective = min(r A, clip(r, 0.8, 1.2) A); its slope by log pi is r A where r A is the minimum."""
    log_probs = leaf([[-1.0 + math.log(ratio)]])
    values = per_token(1, advantage, 0.25, old_log_probs=[-1.0])
    loss, sums = GrpoLoss(clip=0.2, kl=0.0)(log_probs, values)
    loss.backward()
    assert loss.item() == pytest.approx(-0.25 * objective, abs=1e-6)
    assert float(log_probs.grad) == pytest.approx(-0.25 * slope, abs=1e-6)
    assert float(sums["clipped"]) == clipped


@pytest.mark.parametrize("clip", [0.0, 0.1, 0.2, 1.0])
def test_the_clips_width(clip):
    log_probs = leaf([[5.0]])  # ratio e^5
    loss, _ = GrpoLoss(clip=clip, kl=0.0)(log_probs, per_token(1, 1.0, 1.0, old_log_probs=[0.0]))
    assert loss.item() == pytest.approx(-(1 + clip))


@pytest.mark.parametrize("kl", [0.0, 0.001, 0.5])
def test_the_coefficient_of_the_kl(kl):
    """With advantage 0 only kl · weight · k3 is left; k3 is reported whatever its coefficient."""
    log_probs = leaf([[-1.0]])
    values = per_token(1, 0.0, 0.25, reference_log_probs=[-1.0 + math.log(3)])
    loss, sums = GrpoLoss(clip=0.2, kl=kl)(log_probs, values)
    loss.backward()
    assert loss.item() == pytest.approx(kl * 0.25 * (2 - math.log(3)), abs=1e-7)
    assert float(log_probs.grad) == pytest.approx(kl * 0.25 * (1 - 3), abs=1e-7)
    assert float(sums["kl"]) == pytest.approx(2 - math.log(3), rel=1e-6)


def test_without_old_log_probs_the_ratio_is_one():
    """One optimizer step a rollout: the loss is -A w, its gradient too, and the clip never binds."""
    log_probs = leaf([[-0.1, -7.0, -3.0]])
    values = per_token(3, 0.7, 0.125)
    loss, sums = GrpoLoss(clip=0.0, kl=0.0)(log_probs, values)
    loss.backward()
    assert loss.item() == pytest.approx(-3 * 0.7 * 0.125)
    assert log_probs.grad[0].tolist() == pytest.approx([-0.7 * 0.125] * 3)
    assert float(sums["clipped"]) == 0 and float(sums["kl"]) == 0


def test_the_errors_of_the_rollouts_log_probs():
    """exp of the absolute difference, against the policy that made the rollout; summed over counted tokens."""
    log_probs = leaf([[-1.0, -2.0, -3.0]])
    values = per_token(3, 1.0, 0.5)
    values["rollout_log_probs"] = torch.tensor([[-1.0, -2.1, -2.9]])
    _, sums = GrpoLoss(clip=0.2, kl=0.0)(log_probs, values)
    assert float(sums["logprob_error"]) == pytest.approx(1 + 2 * math.exp(0.1), rel=1e-5)


def test_the_mismatch_of_rollout_and_actor():
    """Mean, share outside the band and largest, of counted tokens alone: the last one has no weight."""
    log_probs = leaf([[-1.0, -2.0, -3.0, -4.0]])
    values = per_token(4, 1.0, 0.5)
    values["weights"][0, 3] = 0.0
    values["rollout_log_probs"] = torch.tensor([[-1.0, -2.05, -2.5, -9.0]])
    _, sums = GrpoLoss(clip=0.2, kl=0.0, mismatch_band=0.1)(log_probs, values)
    assert float(sums["mismatch"]) == pytest.approx(0.55, rel=1e-5)
    assert float(sums["mismatch_outside"]) == 1
    assert float(sums["max_mismatch"]) == pytest.approx(0.5, rel=1e-5)
    values["old_log_probs"] = torch.tensor([[-1.0, -2.05, -2.5, -9.0]])
    _, sums = GrpoLoss(clip=0.2, kl=0.0)(log_probs, values)
    assert float(sums["max_mismatch"]) == 0, "against the policy that made the rollout"


def paper_loss(groups, clip, kl):
    """Eq. 1, negated, written as the paper has it: sums over responses and tokens, nothing batched or weighted.

    Args:
        groups: responses (log_probs, old, reference, advantage) that count.
    """
    total = torch.zeros((), dtype=torch.float64)
    for log_probs, old, reference, advantage in groups:
        inner = torch.zeros((), dtype=torch.float64)
        for t in range(len(log_probs)):
            now, before, ref = log_probs[t].double(), old[t].double(), reference[t].double()
            ratio = torch.exp(now - before)
            surrogate = torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - clip, 1 + clip) * advantage)
            divergence = torch.exp(ref - now) - (ref - now) - 1
            inner = inner + surrogate - kl * divergence
        total = total + inner / len(log_probs)
    return -total / len(groups)


@st.composite
def steps(draw):
    """One optimizer step: samples with log-probs as leaves, and the responses that count, for `paper_loss`."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.booleans()), min_size=1, max_size=7))
    with_old, with_reference = draw(st.booleans()), draw(st.booleans())
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    lengths, counted = [length for _, length, _ in shapes], [ok for *_, ok in shapes]
    weights = sequence_mean_weights(lengths, counted)
    samples, leaves, kept = [], [], []
    for (prompt_length, length, ok), weight in zip(shapes, weights, strict=True):
        noise = torch.randn(4, length, generator=random)
        log_probs = (-1.5 * noise[0].abs()).requires_grad_()
        old = (log_probs + 0.3 * noise[1]).detach() if with_old else log_probs.detach()
        reference = (log_probs + 0.3 * noise[2]).detach() if with_reference else log_probs.detach()
        advantage = float(noise[3, 0])
        others = {"advantages": torch.full((length,), advantage), "weights": torch.full((length,), weight)}
        others |= {"old_log_probs": old} if with_old else {}
        others |= {"reference_log_probs": reference} if with_reference else {}
        samples.append(sample_of(log_probs, prompt_length, **others))
        leaves.append(log_probs)
        if ok:
            kept.append((log_probs, old, reference, advantage))
    return samples, leaves, kept


def gradients(loss, leaves):
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return torch.cat([torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)])


def close(one, other):
    assert torch.allclose(one.double(), other.double(), rtol=1e-6, atol=1e-6), (one, other)


@given(steps(), st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 0.001, 1.0]))
@settings(deadline=None, max_examples=60)
def test_it_is_the_papers_equation(step, clip, kl):
    """To 1e-6, gradient included."""
    samples, leaves, kept = step
    loss, _ = loss_over(GrpoLoss(clip, kl), samples, leaves)
    if not kept:
        assert loss.item() == 0 and not gradients(loss, leaves).any()
        return
    wanted = paper_loss(kept, clip, kl)
    close(loss, wanted)
    close(gradients(loss, leaves), gradients(wanted, leaves))


@given(steps(), st.integers(1, 60), st.lists(st.integers(0, 2), min_size=7, max_size=7))
@settings(deadline=None, max_examples=60)
def test_the_split_into_micro_batches_and_ranks_changes_nothing(step, budget, ranks):
    """Loss, gradient and sums are those of one padded batch, under any token budget and any deal to three ranks."""
    samples, leaves, _ = step
    loss = GrpoLoss(clip=0.2, kl=0.1)
    whole, whole_sums = loss_over(loss, samples, leaves)
    total, sums = loss_over_ranks(loss, samples, leaves, ranks, budget)
    close(total, whole)
    close(gradients(total, leaves), gradients(whole, leaves))
    assert sums == pytest.approx(whole_sums, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("wild", [-1e4, 1e4, -3e38, math.inf, math.nan])
@pytest.mark.parametrize(
    "options", [{}, {"dual_clip": 3.0, "clip_high": 0.3, "importance_cap": 2.0, "kl_estimator": "k2"}]
)
def test_samples_of_weight_zero_contribute_nothing(wild, options):
    """Not to the loss, the gradient, nor any sum, whatever the log-probs of a sample without a verdict are."""
    good, bad = leaf([-1.0, -2.0]), leaf([wild, -0.5, wild])
    tokens = {
        name: torch.tensor([-1.1, -2.1]) for name in ("old_log_probs", "reference_log_probs", "rollout_log_probs")
    }
    one = sample_of(good, **tokens, advantages=torch.full((2,), A), weights=torch.full((2,), 0.5))
    other = sample_of(
        bad,
        old_log_probs=torch.tensor([-wild, 0.0, wild]),
        reference_log_probs=torch.tensor([0.0, wild, -wild]),
        rollout_log_probs=torch.tensor([-wild, wild, 0.0]),
        advantages=torch.full((3,), wild),
        weights=torch.zeros(3),
    )
    loss = GrpoLoss(clip=0.2, kl=0.5, **options)
    alone, alone_sums = loss_over(loss, [one], [good])
    both, both_sums = loss_over(loss, [one, other], [good, bad])
    assert both.item() == alone.item()
    assert both_sums == alone_sums
    (wanted,) = torch.autograd.grad(alone, [good])
    found, nothing = torch.autograd.grad(both, [good, bad])
    assert torch.equal(found, wanted) and torch.equal(nothing, torch.zeros(3))


@pytest.mark.parametrize(
    ("advantage", "ratio", "objective", "slope"),
    [
        (2.0, 1.25, 2.5, 2.5),  # beyond 1 + clip, within 1 + clip_high
        (2.0, 1.5, 2.56, 0.0),
        (2.0, 0.5, 1.0, 1.0),
        (-2.0, 0.7, -1.6, 0.0),  # the lower clip is as it was
        (-2.0, 1.5, -3.0, -3.0),
    ],
)
def test_clip_higher(advantage, ratio, objective, slope):
    """objective = min(r A, clip(r, 0.8, 1.28) A)."""
    check_surrogate(advantage, ratio, objective, slope, clip=0.2, clip_high=0.28, dual_clip=None)


@pytest.mark.parametrize(
    ("advantage", "ratio", "objective", "slope"),
    [
        (-2.0, 2.9, -5.8, -5.8),
        (-2.0, 3.5, -6.0, 0.0),  # c A = -6 ends what a runaway ratio may cost
        (-2.0, 0.5, -1.6, 0.0),
        (2.0, 3.5, 2.4, 0.0),  # a positive advantage knows no dual clip
        (2.0, 0.1, 0.2, 0.2),
    ],
)
def test_dual_clip(advantage, ratio, objective, slope):
    """objective = max(min(r A, clip(r, 0.8, 1.2) A), 3 A) where A < 0."""
    check_surrogate(advantage, ratio, objective, slope, clip=0.2, clip_high=None, dual_clip=3.0)


def check_surrogate(advantage, ratio, objective, slope, **options):
    log_ratio = leaf([[math.log(ratio)]])
    found = surrogate(log_ratio.exp(), torch.tensor([[advantage]]), **options)
    found.sum().backward()
    assert found.item() == pytest.approx(objective, abs=1e-6)
    assert float(log_ratio.grad) == pytest.approx(slope, abs=1e-6)
    # The loss is minus that, by its weight, and counts where the clip binds.
    log_probs = leaf([[-1.0 + math.log(ratio)]])
    loss, sums = GrpoLoss(kl=0.0, **options)(log_probs, per_token(1, advantage, 0.25, old_log_probs=[-1.0]))
    assert loss.item() == pytest.approx(-0.25 * objective, abs=1e-6)
    assert float(sums["clipped"]) == (slope == 0)


def test_truncated_importance_by_hand():
    """Ratios of actor to rollout 1/2, 1 and 4 under a cap of 2; no gradient goes through them."""
    old = leaf([0.0, -1.0, -1.0])
    rollout = torch.tensor([math.log(2.0), -1.0, -1.0 - math.log(4.0)])
    found = truncated_importance(old, rollout, 2.0)
    assert found.tolist() == pytest.approx([0.5, 1.0, 2.0]) and not found.requires_grad


def test_importance_weighs_the_whole_loss_of_a_token():
    """At ratio 1 the loss is the sum of weight · importance · (-A + kl k2); its slope has d in place of k2."""
    log_probs = leaf([[-1.0, -2.0]])
    d = 0.5
    values = per_token(2, 0.7, 0.25, reference_log_probs=[-1.0 - d, -2.0 - d])
    values["rollout_log_probs"] = torch.tensor([[-1.0 - math.log(4.0), -2.0 + math.log(2.0)]])
    loss, sums = GrpoLoss(clip=0.2, kl=0.1, kl_estimator="k2", importance_cap=3.0)(log_probs, values)
    loss.backward()
    assert loss.item() == pytest.approx(0.25 * (3.0 + 0.5) * (-0.7 + 0.1 * d * d / 2))
    assert log_probs.grad[0].tolist() == pytest.approx([0.25 * i * (-0.7 + 0.1 * d) for i in (3.0, 0.5)])
    assert float(sums["importance"]) == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [("k1", -math.log(3), 1.0), ("k2", math.log(3) ** 2 / 2, -math.log(3)), ("k3", 2 - math.log(3), -2.0)],
)
def test_the_estimator_in_the_loss(name, value, slope):
    """The reference finds the token three times as likely; kl 0.1, weight 0.25."""
    log_probs = leaf([[-1.0]])
    values = per_token(1, 0.0, 0.25, reference_log_probs=[-1.0 + math.log(3)])
    loss, sums = GrpoLoss(clip=0.2, kl=0.1, kl_estimator=name)(log_probs, values)
    loss.backward()
    assert loss.item() == pytest.approx(0.025 * value, abs=1e-7)
    assert float(log_probs.grad) == pytest.approx(0.025 * slope, abs=1e-7)
    assert float(sums["kl"]) == pytest.approx(value, rel=1e-6)


def test_a_config_names_its_loss():
    assert policy_loss(AlgorithmConfig()) == GrpoLoss(clip=0.2, kl=0.001)
    options = {"kl_estimator": "k2", "clip_high": 0.28, "dual_clip": 3.0, "importance_cap": 2.0}
    found = policy_loss(AlgorithmConfig(clip=0.1, kl=0.5, **options))
    assert found == GrpoLoss(clip=0.1, kl=0.5, **options)
    assert policy_loss(AlgorithmConfig(kl=0.5, kl_in="reward")).kl == 0.0


@pytest.mark.parametrize(
    ("clip", "value", "old", "target", "loss", "slope", "clipped"),
    [
        (None, 1.0, 0.0, 3.0, 4 / 2, -2.0, 0),
        (0.2, 0.1, 0.0, 3.0, 2.9**2 / 2, -2.9, 0),  # within the clip
        (0.2, 1.0, 0.0, 3.0, 2.8**2 / 2, 0.0, 1),  # too far towards the return: no more gain
        (0.2, -1.0, 0.0, 3.0, 4.0**2 / 2, -4.0, 0),  # too far away from it: pulled back
        (0.2, 1.0, 0.0, 0.5, 0.5**2 / 2, 0.5, 0),  # past it: the greater of 0.5² and 0.3²
    ],
)
def test_the_critics_loss(clip, value, old, target, loss, slope, clipped):
    values = leaf([[value]])
    tokens = {"weights": [[0.25]], "values": [[old]], "returns": [[target]]}
    found, sums = ValueLoss(clip)(values, {name: torch.tensor(v) for name, v in tokens.items()})
    found.backward()
    assert found.item() == pytest.approx(0.25 * loss)
    assert float(values.grad) == pytest.approx(0.25 * slope)
    assert (float(sums["tokens"]), float(sums["value_clipped"])) == (1, clipped)


def test_the_critic_learns_nothing_from_weight_zero():
    values = leaf([[0.5, math.nan, math.inf]])
    tokens = {"weights": [[1.0, 0, 0]], "values": [[0.5, math.nan, 0]], "returns": [[1.0, math.nan, math.inf]]}
    found, sums = ValueLoss(0.2)(values, {name: torch.tensor(v) for name, v in tokens.items()})
    found.backward()
    assert found.item() == pytest.approx(0.125) and values.grad[0].tolist() == [-0.5, 0, 0]
    assert float(sums["tokens"]) == 1
