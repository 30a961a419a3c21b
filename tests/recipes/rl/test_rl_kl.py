"""k1, k2, and the paper's k3 = exp(d) - d - 1 with d = log pi_ref - log pi."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.rl.kl import ESTIMATORS, k1, k2, k3


def of(d, dtype=torch.float32):
    """k3 at the difference d, given exactly."""
    return k3(torch.zeros((), dtype=dtype), torch.tensor(d, dtype=dtype))


@pytest.mark.parametrize(
    ("d", "value"),
    [
        (0.0, 0.0),
        (math.log(2), 1 - math.log(2)),  # 2 - ln 2 - 1
        (-math.log(2), math.log(2) - 0.5),  # 1/2 + ln 2 - 1
        (1.0, math.e - 2),
        (-1.0, 1 / math.e),
        (5.0, math.exp(5) - 6),
    ],
)
def test_closed_form(d, value):
    assert float(of(d)) == pytest.approx(value, rel=1e-6)
    assert float(of(d, torch.float64)) == pytest.approx(value, rel=1e-14, abs=1e-16)


def test_it_is_of_the_reference_against_the_policy():
    """Reference twice as likely as the policy: d = ln 2. The other way round it would be ln 2 - 1/2."""
    policy, reference = torch.tensor(math.log(0.25)), torch.tensor(math.log(0.5))
    assert float(k3(policy, reference)) == pytest.approx(1 - math.log(2), rel=1e-6)


@pytest.mark.parametrize("d", [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, -1e-3, -1e-5, -1e-6, -1e-8])
def test_precise_where_it_is_tiny(d):
    """In float32 exp(d) - d - 1 at d = 1e-6 is 0 or 1e-7 instead of 5e-13: nothing but rounding."""
    d = float(torch.tensor(d))  # as float32 holds it
    wanted = d * d / 2 + d**3 / 6 + d**4 / 24
    assert float(of(d)) == pytest.approx(wanted, rel=1e-5)
    # And its slope: d/d(log pi) = 1 - exp(d), about -d.
    log_prob = torch.zeros((), requires_grad=True)
    k3(log_prob, torch.tensor(d)).backward()
    assert float(log_prob.grad) == pytest.approx(-math.expm1(d), rel=1e-5)


@given(st.floats(-20, 20, width=32))
@settings(deadline=None, max_examples=200)
def test_equals_the_definition_in_float64_and_is_never_negative(d):
    found = float(of(d))
    assert found >= 0
    assert found == pytest.approx(math.exp(d) - d - 1, rel=1e-6, abs=1e-14)


def test_never_negative_near_zero():
    d = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-12, 0, 100_000)
    assert float(k3(torch.zeros_like(d), d).min()) >= 0
    assert float(k3(d, torch.zeros_like(d)).min()) >= 0


@pytest.mark.parametrize("far", [20.0, 25.0, 1e4, 3e38, math.inf])
def test_one_runaway_token_cannot_overflow(far):
    top = math.exp(20) - 21
    assert float(of(far)) == pytest.approx(top, rel=1e-6)
    assert float(of(-far)) == pytest.approx(19 + math.exp(-20), rel=1e-6)
    log_prob = torch.tensor(-far, requires_grad=True)
    k3(log_prob, torch.zeros(())).backward()
    assert math.isfinite(float(log_prob.grad))
    assert far == 20 or float(log_prob.grad) == 0  # outside the clamp nothing pulls


def test_keeps_shape_and_dtype():
    for dtype in (torch.float32, torch.float64):
        found = k3(torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype))
        assert (found.shape, found.dtype) == ((2, 3), dtype)


@pytest.mark.parametrize(
    ("d", "first", "second"), [(0.0, 0.0, 0.0), (math.log(2), -math.log(2), math.log(2) ** 2 / 2), (-3.0, 3.0, 4.5)]
)
def test_closed_form_of_the_others(d, first, second):
    policy, reference = torch.tensor(-1.0, dtype=torch.float64), torch.tensor(-1.0 + d, dtype=torch.float64)
    assert float(k1(policy, reference)) == pytest.approx(first)
    assert float(k2(policy, reference)) == pytest.approx(second)


@pytest.mark.parametrize("far", [25.0, 1e4, math.inf])
def test_the_others_cannot_overflow_either(far):
    assert float(k1(torch.zeros(()), torch.tensor(-far))) == 20
    assert float(k2(torch.zeros(()), torch.tensor(far))) == 200


def distributions():
    """Logits of a policy, with gradient, and log-probs of a reference over five tokens."""
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(5, generator=random, dtype=torch.float64, requires_grad=True)
    return logits, torch.randn(5, generator=random, dtype=torch.float64).log_softmax(0)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_two_are_unbiased(name):
    """The mean over the policy's tokens is KL(pi || pi_ref), exactly."""
    logits, reference = distributions()
    log_probs = logits.detach().log_softmax(0)
    mean = (log_probs.exp() * ESTIMATORS[name](log_probs, reference)).sum()
    assert float(mean) == pytest.approx(float((log_probs.exp() * (log_probs - reference)).sum()))


def test_what_their_gradients_are_in_the_loss():
    """Of tokens that are drawn and then fixed: k2 follows KL(pi || ref), k3 KL(ref || pi), k1 nothing."""
    logits, reference = distributions()
    log_probs = logits.log_softmax(0)

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    def in_the_loss(estimator):
        return gradient((log_probs.detach().exp() * estimator(log_probs, reference)).sum())

    backward = gradient((log_probs.exp() * (log_probs - reference)).sum())
    forward = gradient((reference.exp() * (reference - log_probs)).sum())
    assert torch.allclose(in_the_loss(k2), backward, atol=1e-12)
    assert torch.allclose(in_the_loss(k3), forward, atol=1e-12)
    assert torch.allclose(in_the_loss(k1), torch.zeros(5, dtype=torch.float64), atol=1e-12)
    assert not torch.allclose(forward, backward, atol=1e-2)
