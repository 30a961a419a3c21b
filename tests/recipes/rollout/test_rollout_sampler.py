"""The sampler: draws that depend on a sample's own numbers alone, from the distribution that was asked for."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_helpers import uniforms

from recipes.rollout.interface import Request, SamplingParams
from recipes.rollout.local.sampler import draw, nucleus

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=6, stop_ids=(0,), vocabulary=10, seed=3, step=5)
ALMOST_1 = math.nextafter(1.0, 0.0)


def request(prompt, sample):
    return Request((1, 2, 3), prompt, sample)


REQUESTS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 20)), min_size=1, max_size=8)


@given(REQUESTS, st.integers(0, 2**31), st.integers(0, 10_000), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_uniforms_depend_on_the_samples_own_numbers_alone(pairs, seed, step, random):
    params = replace(PARAMS, seed=seed, step=step)
    requests = [request(*pair) for pair in pairs]
    together = uniforms(requests, params)
    assert together.shape == (len(requests), 6) and together.dtype == torch.float64
    assert bool((together >= 0).all()) and bool((together < 1).all())
    for row, one in enumerate(requests):
        assert torch.equal(uniforms([one], params)[0], together[row])
    order = random.sample(range(len(requests)), len(requests))
    assert torch.equal(uniforms([requests[i] for i in order], params), together[order])


def test_every_number_makes_another_stream():
    """Seed, step, prompt and sample, in their places: no two of these share a stream, and no two prompts' samples."""
    found = {}
    for seed in range(3):
        for step in range(3):
            for prompt in range(3):
                for sample in range(3):
                    params = replace(PARAMS, seed=seed, step=step)
                    found[seed, step, prompt, sample] = tuple(uniforms([request(prompt, sample)], params)[0].tolist())
    assert len(set(found.values())) == 81


def test_a_longer_limit_only_adds_numbers():
    """A resume with a higher max_response_tokens draws the same first tokens."""
    short, long = (uniforms([request(4, 2)], replace(PARAMS, max_tokens=n))[0] for n in (5, 50))
    assert torch.equal(short, long[:5])


def test_the_numbers_stay_those_of_today():
    """A resumed run must meet them under another numpy too."""
    found = uniforms([request(7, 1)], replace(PARAMS, max_tokens=3))[0].tolist()
    assert found == [0.5990668625842307, 0.014727667703284708, 0.03670534192005548]


def test_uniforms_are_uniform():
    """20 000 numbers over many samples: mean 1/2 within four standard errors, and so every tenth's share."""
    found = uniforms([request(p, g) for p in range(250) for g in range(8)], replace(PARAMS, max_tokens=10)).flatten()
    assert abs(float(found.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / len(found))
    shares = torch.histc(found.float(), 10, 0, 1) / len(found)
    assert float((shares - 0.1).abs().max()) < 4 * math.sqrt(0.09 / len(found))


def chi_square(ids, probs):
    """Pearson's statistic of drawn ids against the expected distribution; ids of probability 0 must not occur."""
    counts = torch.bincount(ids, minlength=len(probs)).double()
    possible = probs > 0
    assert not counts[~possible].any()
    expected = probs[possible] * len(ids)
    return float(((counts[possible] - expected) ** 2 / expected).sum()), int(possible.sum()) - 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_drawn_ids_follow_the_distribution(temperature, top_p):
    """Fixed seeds, so this either holds or not: the statistic stays below its 99.99th percentile or so."""
    logits = torch.tensor([1.0, -0.5, 2.0, 0.0, 0.3, -2.0, 1.2, 0.7, -1.0, 1.9])
    params = replace(PARAMS, temperature=temperature, top_p=top_p, max_tokens=10)
    uniform = uniforms([request(p, g) for p in range(250) for g in range(8)], params).flatten()
    ids, log_probs = draw(logits.expand(len(uniform), -1), uniform, params)
    probs = (logits.double() / temperature).softmax(0)
    wanted = nucleus(probs[None], top_p)[0] if top_p < 1 else probs
    statistic, freedom = chi_square(ids, wanted / wanted.sum())
    assert statistic < freedom + 5 * math.sqrt(2 * freedom) + 5
    # Log-probs are those of the whole distribution at the temperature, top-p left aside.
    assert torch.allclose(log_probs, probs.log()[ids].float(), atol=1e-6)


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)


@given(LOGITS, st.floats(0, ALMOST_1), st.sampled_from([0.01, 0.3, 1.0, 5.0, 100.0]), st.sampled_from([1.0, 0.9, 0.1]))
@settings(deadline=None, max_examples=150)
def test_a_draw_inverts_the_cumulative_distribution(logits, uniform, temperature, top_p):
    """The drawn id has a positive probability, and its log-prob is log_softmax at the temperature."""
    params = replace(PARAMS, temperature=temperature, top_p=top_p, vocabulary=len(logits))
    logits = torch.tensor([logits])
    (token,), (log_prob,) = draw(logits, torch.tensor([uniform], dtype=torch.float64), params)
    wanted = (logits / temperature).log_softmax(-1)
    assert float(log_prob) == pytest.approx(float(wanted[0, token]), rel=1e-6, abs=1e-6)
    probs = nucleus(wanted.double().exp(), top_p)[0] if top_p < 1 else wanted.double().exp()[0]
    cumulative = probs.cumsum(0) / probs.sum()
    assert probs[token] > 0
    assert cumulative[token] >= uniform - 1e-9
    assert token == 0 or cumulative[token - 1] <= uniform + 1e-9


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize(
    ("logits", "first", "last"),
    [
        ([0.0, 0.0, 0.0], 0, 2),
        ([-1e9, 0.0, -1e9], 1, 1),  # both ends have probability 0
        ([-math.inf, 0.0, 0.0, -math.inf], 1, 2),
        ([0.0, -1e9, -1e9], 0, 0),
        ([3.0], 0, 0),
    ],
)
def test_the_ends_of_the_unit_interval(logits, first, last, top_p):
    """A uniform of 0 takes the first possible id, one just under 1 the last; never one of probability 0."""
    params = replace(PARAMS, top_p=top_p, vocabulary=len(logits))
    both = torch.tensor([logits, logits])
    ids, log_probs = draw(both, torch.tensor([0.0, ALMOST_1], dtype=torch.float64), params)
    assert ids.tolist() == [first, last]
    assert bool(log_probs.isfinite().all())


@given(st.integers(0, 2**32), st.integers(1, 6000))
@settings(deadline=None, max_examples=40)
def test_just_under_one_never_leaves_a_large_vocabulary(seed, size):
    """The cumulative sum of many float probabilities is not 1; whatever it is, the last possible id is within."""
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) * 4
    logits[0, size // 2 + 1 :] = -math.inf
    params = replace(PARAMS, vocabulary=size)
    ids, log_probs = draw(logits, torch.tensor([ALMOST_1], dtype=torch.float64), params)
    assert int(ids) <= size // 2 and math.isfinite(float(log_probs))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_ids_beyond_the_tokenizer_are_never_drawn(temperature, top_p):
    """Whatever logits the padded rows of the embedding give; they do not take probability from the others either."""
    logits = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    padded = logits.clone()
    padded[:, 10:] = 1e6
    params = replace(PARAMS, temperature=temperature, top_p=top_p)
    uniform = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids, log_probs = draw(padded, uniform, params)
    assert int(ids.max()) < 10
    alone_ids, alone_log_probs = draw(logits[:, :10], uniform, params)
    assert torch.equal(ids, alone_ids) and torch.equal(log_probs, alone_log_probs)


def test_temperature_zero_is_greedy():
    logits = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    params = replace(PARAMS, temperature=0.0, top_p=0.5)
    for uniform in (0.0, 0.5, ALMOST_1):
        ids, log_probs = draw(logits, torch.full((200,), uniform, dtype=torch.float64), params)
        assert torch.equal(ids, logits.argmax(-1))
        assert torch.allclose(log_probs, logits.log_softmax(-1).gather(1, ids[:, None])[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("probs", "top_p", "kept"),
    [
        ([0.5, 0.3, 0.2], 0.4, [0]),
        ([0.5, 0.3, 0.2], 0.6, [0, 1]),
        ([0.2, 0.5, 0.3], 0.6, [1, 2]),
        ([0.5, 0.3, 0.2], 0.9, [0, 1, 2]),
        ([0.5, 0.25, 0.25], 0.75, [0, 1]),  # reached exactly: of two alike the first
        ([0.25, 0.25, 0.25, 0.25], 0.5, [0, 1]),
        ([0.5, 0.5], 0.01, [0]),  # never empty
    ],
)
def test_the_nucleus_by_hand(probs, top_p, kept):
    found = nucleus(torch.tensor([probs], dtype=torch.float64), top_p)[0]
    assert found.nonzero()[:, 0].tolist() == kept
    assert [found[i] for i in kept] == [probs[i] for i in kept]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12), st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=150)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(shares, top_p):
    probs = torch.tensor(shares, dtype=torch.float64) / sum(shares)
    found = nucleus(probs[None], top_p)[0]
    kept = found > 0
    assert float(found.sum()) >= top_p - 1e-12
    assert float(found.sum() - found[kept].min()) < top_p + 1e-12  # without its least likely id it falls short
    assert kept.all() or float(probs[~kept].max()) <= float(probs[kept].min())  # the most likely ones
    assert torch.equal(found[kept], probs[kept])


def test_rows_do_not_see_each_other():
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    params = replace(PARAMS, top_p=0.7)
    ids, log_probs = draw(logits, uniform, params)
    for row in range(20):
        alone_ids, alone_log_probs = draw(logits[[row]], uniform[[row]], params)
        assert int(alone_ids) == int(ids[row]) and float(alone_log_probs) == float(log_probs[row])
