"""Chunked log-probabilities against the plain formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.actors.mcore.head import LogProbHead


def plain(hidden_nh, weight_vh, labels_n, vocabulary, temperature):
    """log p(label) and entropy in float64, all logits at once."""
    logits_nv = (hidden_nh.double() @ weight_vh.double().t())[:, :vocabulary] / temperature
    log_probs_nv = logits_nv.log_softmax(-1)
    return log_probs_nv.gather(1, labels_n[:, None])[:, 0], -(log_probs_nv.exp() * log_probs_nv).sum(-1)


def some(positions, width, rows, vocabulary, seed=0, scale=1.0):
    draw = torch.Generator().manual_seed(seed)
    hidden_nh = scale * torch.randn(positions, width, generator=draw)
    weight_vh = torch.randn(rows, width, generator=draw)
    return hidden_nh, weight_vh, torch.randint(0, vocabulary, (positions,), generator=draw)


@settings(deadline=None, max_examples=40)
@given(
    positions=st.integers(1, 33),
    rows=st.integers(2, 40),
    spare=st.integers(0, 5),
    chunk=st.integers(1, 4000),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_values_and_gradients_equal_the_plain_formula_for_any_chunk(positions, rows, spare, chunk, temperature, scale):
    vocabulary = max(1, rows - spare)
    hidden_nh, weight_vh, labels_n = some(positions, 6, rows, vocabulary, seed=positions, scale=scale)
    upstream_n = torch.randn(positions, generator=torch.Generator().manual_seed(1))
    hidden_nh.requires_grad_(), weight_vh.requires_grad_()
    head = LogProbHead(vocabulary, temperature, chunk_bytes=chunk)
    found_n, entropy_n = head.log_probs(hidden_nh, weight_vh, labels_n)
    wanted_n, wanted_entropy_n = plain(hidden_nh, weight_vh, labels_n, vocabulary, temperature)
    size = 1.0 + float(wanted_n.detach().abs().max())
    torch.testing.assert_close(found_n.double(), wanted_n, rtol=0, atol=2e-6 * size)
    torch.testing.assert_close(entropy_n.double(), wanted_entropy_n, rtol=0, atol=2e-6 * size)
    found = torch.autograd.grad((found_n * upstream_n).sum(), [hidden_nh, weight_vh])
    wanted = torch.autograd.grad((wanted_n * upstream_n).sum(), [hidden_nh, weight_vh])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * (1.0 + float(other.abs().max())))


def test_no_chunk_is_larger_than_asked_for():
    sizes = [part.stop - part.start for part in LogProbHead(100, 1.0, chunk_bytes=4 * 100 * 7).chunks(30, 100)]
    assert sizes == [7, 7, 7, 7, 2]
    assert [part.stop - part.start for part in LogProbHead(100, 1.0, chunk_bytes=1).chunks(3, 100)] == [1, 1, 1]


def test_ids_beyond_the_vocabulary_have_no_part():
    hidden_nh, weight_vh, labels_n = some(5, 4, rows=10, vocabulary=7)
    weight_vh[7:] = 1e3  # would win every softmax
    found_n, entropy_n = LogProbHead(7, 1.0, 1 << 20).log_probs(hidden_nh, weight_vh, labels_n)
    wanted_n, wanted_entropy_n = plain(hidden_nh, weight_vh, labels_n, 7, 1.0)
    torch.testing.assert_close(found_n.double(), wanted_n, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy_n.double(), wanted_entropy_n, rtol=1e-5, atol=1e-5)


def test_no_positions_give_no_values_and_a_zero_gradient():
    hidden_nh, weight_vh, labels_n = some(0, 4, rows=10, vocabulary=10)
    weight_vh.requires_grad_()
    found_n, _ = LogProbHead(10, 1.0, 64).log_probs(hidden_nh, weight_vh, labels_n)
    assert found_n.shape == (0,)
    (gradient,) = torch.autograd.grad(found_n.sum(), weight_vh)
    assert not gradient.any()


def test_bfloat16_stays_within_its_own_rounding():
    hidden_nh, weight_vh, labels_n = some(64, 32, rows=50, vocabulary=50)
    exact_n, _ = plain(hidden_nh.bfloat16(), weight_vh.bfloat16(), labels_n, 50, 1.0)
    found_n, _ = LogProbHead(50, 1.0, 1 << 20).log_probs(hidden_nh.bfloat16(), weight_vh.bfloat16(), labels_n)
    assert found_n.dtype == torch.float32
    # One rounding of each logit to eight bits: logits are up to about 20 here.
    assert float((found_n.double() - exact_n).abs().max()) == pytest.approx(0, abs=20 * 2**-8)
