"""Group-relative advantages: (r - mean) / (std + epsilon), over valid samples only."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.rl.advantages import group_advantages, useful_groups

EPSILON = 1e-6


def advantages(rewards, valid=None, unbiased=True, divide_by_std=True):
    """Of one group, as a list."""
    rewards = torch.tensor([rewards], dtype=torch.float32)
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else torch.tensor([valid])
    found = group_advantages(rewards, valid, unbiased=unbiased, epsilon=EPSILON, divide_by_std=divide_by_std)
    assert found.dtype == torch.float32
    return found[0].tolist()


def test_by_hand_unbiased():
    """Rewards 1, 0, 0, 1, 0: mean 2/5, squares 2·(3/5)² + 3·(2/5)² = 30/25, variance (30/25)/4 = 0.3."""
    std = math.sqrt(0.3)
    wanted = [0.6 / (std + EPSILON) if r else -0.4 / (std + EPSILON) for r in (1, 0, 0, 1, 0)]
    assert advantages([1, 0, 0, 1, 0]) == pytest.approx(wanted, abs=1e-7)


def test_by_hand_biased():
    """The same group with variance (30/25)/5 = 0.24."""
    std = math.sqrt(0.24)
    wanted = [0.6 / (std + EPSILON) if r else -0.4 / (std + EPSILON) for r in (1, 0, 0, 1, 0)]
    assert advantages([1, 0, 0, 1, 0], unbiased=False) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize(
    ("unbiased", "std"),
    [(True, math.sqrt(0.5)), (False, 0.5)],  # of 1, 0: squares 2·(1/2)², over 1 or over 2
)
def test_the_smallest_group(unbiased, std):
    assert advantages([1, 0], unbiased=unbiased) == pytest.approx([0.5 / (std + EPSILON), -0.5 / (std + EPSILON)])


def test_epsilon_is_added_to_the_standard_deviation():
    rewards = torch.tensor([[1.0, 0.0]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    found = group_advantages(rewards, valid, unbiased=False, epsilon=0.5, divide_by_std=True)
    assert found[0].tolist() == pytest.approx([0.5 / (0.5 + 0.5), -0.5 / (0.5 + 0.5)])


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("junk", [0.0, 1.0, 1e30, math.nan, math.inf])
def test_invalid_samples_leave_mean_and_standard_deviation(unbiased, junk):
    """Whatever stands at their places, the others' advantages are those of the group without them."""
    rest = advantages([1, 0, 0], unbiased=unbiased)
    found = advantages([1, junk, 0, junk, 0], [True, False, True, False, True], unbiased=unbiased)
    assert found == [rest[0], 0.0, rest[1], 0.0, rest[2]]


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize(
    ("rewards", "valid"),
    [
        ([1, 0, 1], [False, False, False]),
        ([1, 0, 1], [True, False, False]),
        ([1], [True]),
        ([1, 1, 1], [True, True, True]),
        ([0, 0, 0], [True, True, True]),
        ([0.1, 0.1, 0.1], [True, True, True]),  # no exact binary mean
        ([1, 0, 1], [True, False, True]),  # equal among the valid
    ],
)
def test_groups_that_teach_nothing_are_zero(rewards, valid, unbiased):
    found = advantages(rewards, valid, unbiased)
    assert found == pytest.approx([0.0] * len(rewards), abs=1e-9)


def test_groups_do_not_see_each_other():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    options = {"unbiased": True, "epsilon": EPSILON, "divide_by_std": True}
    both = group_advantages(rewards, valid, **options)
    for number in range(2):
        alone = group_advantages(rewards[[number]], valid[[number]], **options)
        assert torch.equal(both[[number]], alone)


REWARDS = st.sampled_from([0.0, 1.0]) | st.floats(-10, 10, width=32)


@st.composite
def groups(draw, rewards=REWARDS):
    """(rewards, valid) of one group."""
    pairs = draw(st.lists(st.tuples(rewards, st.booleans()), min_size=1, max_size=8))
    return [reward for reward, _ in pairs], [valid for _, valid in pairs]


@given(groups(), st.booleans())
@settings(deadline=None, max_examples=80)
def test_valid_advantages_sum_to_zero(group, unbiased):
    rewards, valid = group
    found = advantages(rewards, valid, unbiased)
    assert sum(found) == pytest.approx(0, abs=1e-4)
    assert all(a == 0 for a, ok in zip(found, valid, strict=True) if not ok)
    assert all(math.isfinite(a) for a in found)


@given(groups(rewards=st.integers(-8, 8).map(float)), st.integers(-16, 16), st.booleans())
@settings(deadline=None, max_examples=80)
def test_adding_a_constant_changes_nothing(group, constant, unbiased):
    rewards, valid = group
    moved = advantages([r + constant for r in rewards], valid, unbiased)
    assert moved == pytest.approx(advantages(rewards, valid, unbiased), abs=1e-6)


@given(groups(), st.randoms(use_true_random=False), st.booleans())
@settings(deadline=None, max_examples=80)
def test_the_order_of_samples_does_not_matter(group, random, unbiased):
    rewards, valid = group
    order = random.sample(range(len(rewards)), len(rewards))
    found = advantages(rewards, valid, unbiased)
    shuffled = advantages([rewards[i] for i in order], [valid[i] for i in order], unbiased)
    assert shuffled == pytest.approx([found[i] for i in order], abs=1e-4)


@pytest.mark.parametrize(
    ("rewards", "valid", "wanted"),
    [
        ([[1, 0], [1, 1], [0, 0]], [[True, True]] * 3, [True, False, False]),
        ([[1, 0], [1, 0]], [[True, False], [False, False]], [False, False]),  # fewer than two valid
        ([[1, 0, 1]], [[True, False, True]], [False]),  # equal among the valid
        ([[1, 0, 1]], [[False, True, True]], [True]),
        ([[0.25, 0.5]], [[True, True]], [True]),
    ],
)
def test_useful_groups(rewards, valid, wanted):
    assert useful_groups(torch.tensor(rewards, dtype=torch.float32), torch.tensor(valid)).tolist() == wanted


@pytest.mark.parametrize("unbiased", [True, False])
def test_without_the_standard_deviation(unbiased):
    """Dr. GRPO: rewards 1, 0, 0, 1, 0 less their mean of 2/5; invalid ones and lone ones stay out."""
    assert advantages([1, 0, 0, 1, 0], None, unbiased, False) == pytest.approx([0.6, -0.4, -0.4, 0.6, -0.4])
    assert advantages([1, 5, 0], [True, False, True], unbiased, False) == pytest.approx([0.5, 0, -0.5])
    assert advantages([1, 0], [True, False], unbiased, False) == [0, 0]
