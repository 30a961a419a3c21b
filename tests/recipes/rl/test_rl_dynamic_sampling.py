"""Dynamic sampling: which groups are replaced, by how many draws, and what is left when the draws run out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_helpers import prompt, response, verdict

from recipes.rl.batch import RolloutBatch, Sample
from recipes.rl.dynamic_sampling import draw_useful

GOOD, EVEN, LONE = [1.0, 0.0], [1.0, 1.0], [1.0, None]


class Draws:
    """Hands out groups of given rewards in turn and remembers what it was asked for."""

    def __init__(self, groups):
        self.groups = groups
        self.asked = []
        self.checked = []

    def __call__(self, count, first):
        self.asked.append((count, first))
        samples = [
            Sample(prompt(p), g, response(2), "text", verdict(reward))
            for p in range(first, first + count)
            for g, reward in enumerate(self.groups[p])
        ]
        return RolloutBatch(samples, 2)

    def check(self, drawn):
        self.checked.append(len(drawn.samples) // 2)


def numbers(batch):
    """Which of the drawn prompts the batch holds."""
    assert [s.number for s in batch.samples] == [0, 1] * (len(batch.samples) // 2)
    return [int(s.prompt.row.id, 16) for s in batch.samples[::2]]


@pytest.mark.parametrize(
    ("groups", "most", "asked", "kept", "dropped"),
    [
        ([GOOD, GOOD], 3, [(2, 0)], [0, 1], 0),
        ([EVEN, GOOD, GOOD], 3, [(2, 0), (1, 2)], [1, 2], 1),
        ([EVEN, LONE, EVEN, GOOD, GOOD], 3, [(2, 0), (2, 2), (1, 4)], [3, 4], 3),
        ([EVEN, GOOD, LONE], 1, [(2, 0), (1, 2)], [0, 1], 1),  # filled up with the first of the others
        ([EVEN, LONE, EVEN, LONE, EVEN, LONE], 2, [(2, 0), (2, 2), (2, 4)], [0, 1], 4),
    ],
)
def test_what_is_drawn_and_kept(groups, most, asked, kept, dropped):
    draws = Draws(groups)
    batch, metrics = draw_useful(draws, 2, most, draws.check)
    assert (draws.asked, numbers(batch)) == (asked, kept)
    assert (metrics["dynamic_sampling_rollouts"], metrics["dropped_groups"]) == (len(asked) - 1, dropped)
    # Verdicts are checked over everything drawn so far, also what is replaced.
    assert draws.checked == [first + count for count, first in asked]


def test_off_takes_the_first_rollout_as_it_is():
    draws = Draws([EVEN, LONE])
    batch, metrics = draw_useful(draws, 2, 0, draws.check)
    assert numbers(batch) == [0, 1] and metrics == {} and draws.asked == [(2, 0)] and draws.checked == [2]


def test_the_reward_of_all_that_was_drawn_is_kept():
    """Valid rewards 1, 1; 1; 1, 0: the batch's mean is of what is trained on, drawn_reward of the policy."""
    batch, metrics = draw_useful(draws := Draws([EVEN, LONE, GOOD]), 1, 5, lambda drawn: None)
    assert draws.asked == [(1, 0), (1, 1), (1, 2)]
    assert metrics["drawn_reward"] == pytest.approx(4 / 5) and batch.metrics()["reward"] == 0.5


@given(st.lists(st.sampled_from([GOOD, EVEN, LONE]), min_size=60, max_size=60), st.integers(1, 8), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_always_a_whole_batch_with_every_useful_group(groups, prompts, most):
    draws = Draws(groups)
    batch, metrics = draw_useful(draws, prompts, most, draws.check)
    kept, drawn = numbers(batch), sum(count for count, _ in draws.asked)
    assert len(kept) == prompts and kept == sorted(set(kept)) and kept[-1] < drawn
    useful = [p for p in range(drawn) if groups[p] == GOOD]
    assert set(useful) <= set(kept)
    assert len(useful) == prompts or metrics["dynamic_sampling_rollouts"] == most
    assert metrics["dropped_groups"] == drawn - prompts
