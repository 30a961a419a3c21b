"""The weights of tokens: mean of means, mean over tokens, sum over a constant."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.rl.averaging import constant_weights, sequence_mean_weights, token_mean_weights, token_weights


@pytest.mark.parametrize(
    ("lengths", "counted", "weights"),
    [
        ([1, 3], [True, True], [1 / 2, 1 / 6]),
        ([1, 3], [True, False], [1.0, 0.0]),
        ([4, 2, 1], [True, True, True], [1 / 12, 1 / 6, 1 / 3]),
        ([4, 2], [False, False], [0.0, 0.0]),
        ([], [], []),
    ],
)
def test_weights_of_the_mean_of_means(lengths, counted, weights):
    assert sequence_mean_weights(lengths, counted) == pytest.approx(weights)


@given(
    st.sampled_from([sequence_mean_weights, token_mean_weights]),
    st.lists(st.tuples(st.integers(1, 5000), st.booleans()), min_size=1, max_size=50),
)
@settings(deadline=None, max_examples=60)
def test_weights_of_a_mean_sum_to_one_over_a_step(average, responses):
    lengths, counted = [n for n, _ in responses], [ok for _, ok in responses]
    weights = average(lengths, counted)
    total = sum(n * w for n, w in zip(lengths, weights, strict=True))
    assert total == pytest.approx(float(any(counted)))
    assert all((w > 0) == ok for w, ok in zip(weights, counted, strict=True))


def test_three_averages_of_one_loss_by_hand():
    """Losses 6; 1, 2, 3; and one of an invalid response. Longest response: 8.

    Mean of means (6 + 2)/2 = 4; mean over tokens 12/4 = 3; constant 12/(2·8) = 0.75.
    """
    losses, counted = [[6.0], [1.0, 2.0, 3.0], [100.0]], [True, True, False]
    found = {
        name: sum(w * sum(one) for w, one in zip(token_weights(name, [1, 3, 1], counted, 8), losses, strict=True))
        for name in ("sequence", "token", "constant")
    }
    assert found == pytest.approx({"sequence": 4.0, "token": 3.0, "constant": 0.75})


def test_nothing_counted_weighs_nothing():
    assert token_mean_weights([2, 3], [False, False]) == [0.0, 0.0]
    assert constant_weights([False, False], 8) == [0.0, 0.0]


def test_a_constant_knows_no_lengths():
    assert constant_weights([True, False, True], 100) == [1 / 200, 0.0, 1 / 200]
