"""PPO's advantages: rewards of tokens, generalised advantage estimation, whitening, explained variance."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.rl.gae import explained_variance, gae, token_rewards, whiten


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    """Reward 1 at the end of three tokens, values 0.2, 0.4, 0.6, gamma 0.9, lambda 0.5.

    delta_3 = 1 - 0.6 = 0.4;  delta_2 = 0.9·0.6 - 0.4 = 0.14;  delta_1 = 0.9·0.4 - 0.2 = 0.16
    A_3 = 0.4;  A_2 = 0.14 + 0.45·0.4 = 0.32;  A_1 = 0.16 + 0.45·0.32 = 0.304
    """
    advantages, returns = gae(rows([0, 0, 1]), rows([0.2, 0.4, 0.6]), gamma=0.9, lam=0.5)
    assert advantages[0].tolist() == pytest.approx([0.304, 0.32, 0.4])
    assert returns[0].tolist() == pytest.approx([0.504, 0.72, 1.0])


def test_lambda_one_is_the_discounted_reward_less_the_value():
    advantages, returns = gae(rows([0, 0.5, 1]), rows([0.3, -0.1, 0.7]), gamma=0.5, lam=1.0)
    assert returns[0].tolist() == pytest.approx([0.5 * 0.5 + 0.25, 0.5 + 0.5, 1.0])
    assert (advantages + rows([0.3, -0.1, 0.7]) - returns).abs().max() < 1e-15


def test_lambda_zero_is_one_step():
    advantages, _ = gae(rows([0, 0.5, 1]), rows([0.3, -0.1, 0.7]), gamma=0.5, lam=0.0)
    assert advantages[0].tolist() == pytest.approx([0.5 * -0.1 - 0.3, 0.5 + 0.5 * 0.7 + 0.1, 1 - 0.7])


def test_nothing_is_bootstrapped_beyond_the_last_token():
    """Of a response that was cut off too: the value before its last token says nothing of what would have come."""
    advantages, returns = gae(rows([0.0]), rows([0.9]), gamma=1.0, lam=0.95)
    assert (float(advantages), float(returns)) == pytest.approx((-0.9, 0.0))


@st.composite
def responses(draw):
    """Rewards and values of responses of different lengths, gamma and lambda."""
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    pairs = [torch.randn(2, n, generator=random, dtype=torch.float64) for n in lengths]
    return pairs, draw(st.floats(0, 1)), draw(st.floats(0, 1))


@given(responses())
@settings(deadline=None, max_examples=60)
def test_padding_changes_nothing_and_it_is_the_definition(given_responses):
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, of each response by itself."""
    pairs, gamma, lam = given_responses
    longest = max(p.shape[1] for p in pairs)
    padded = torch.stack([torch.nn.functional.pad(p, (0, longest - p.shape[1])) for p in pairs])
    advantages, returns = gae(padded[:, 0], padded[:, 1], gamma=gamma, lam=lam)
    for row, (rewards, values) in enumerate(pairs):
        n = len(rewards)
        delta = [rewards[t] + (gamma * values[t + 1] if t + 1 < n else 0) - values[t] for t in range(n)]
        wanted = [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)]
        assert advantages[row, :n].tolist() == pytest.approx([float(x) for x in wanted], abs=1e-12)
        assert not advantages[row, n:].any() and not returns[row, n:].any()


def test_a_responses_reward_stands_at_its_last_token():
    found = token_rewards(torch.tensor([1.0, 0.5]), torch.tensor([3, 1]), None)
    assert found.tolist() == [[0, 0, 1], [0.5, 0, 0]]
    penalties = rows([0.25, 0.5, 0.125], [1.0, 0, 0])
    found = token_rewards(torch.tensor([1.0, 0.5]), torch.tensor([3, 1]), penalties)
    assert found.tolist() == [[-0.25, -0.5, 0.875], [-0.5, 0, 0]]


@pytest.mark.parametrize(("unbiased", "std"), [(True, math.sqrt(8 / 2)), (False, math.sqrt(8 / 3))])
def test_whitening_by_hand(unbiased, std):
    """1, 3, 5: mean 3, squares 4 + 0 + 4."""
    found = whiten(torch.tensor([1.0, 3.0, 5.0]), unbiased=unbiased, epsilon=0.5)
    assert found.tolist() == pytest.approx([-2 / (std + 0.5), 0, 2 / (std + 0.5)])


@pytest.mark.parametrize("values", [[], [7.0], [2.0, 2.0, 2.0]])
def test_whitening_of_what_does_not_vary_is_zero(values):
    assert whiten(torch.tensor(values), unbiased=True, epsilon=1e-6).tolist() == [0.0] * len(values)


def test_explained_variance():
    returns = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(torch.full((4,), 0.5), returns) == 0.0
    assert explained_variance(torch.tensor([0.0, 0.5, 0.0, 0.5]), returns) == pytest.approx(0.75)
    assert explained_variance(1 - returns, returns) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(4)) is None
    assert explained_variance(torch.zeros(0), torch.zeros(0)) is None
