"""DAPO's soft overlong punishment."""

import pytest
import torch

from recipes.rl.overlong import overlong_penalties


@pytest.mark.parametrize(
    ("length", "lost"),
    [(1, 0.0), (79, 0.0), (80, 0.0), (81, 0.05), (90, 0.5), (99, 0.95), (100, 1.0)],
)
def test_a_ramp_over_the_last_tokens(length, lost):
    """Limit 100, buffer 20: R_length = ((100 - 20) - length) / 20 between 80 and 100."""
    assert float(overlong_penalties(torch.tensor([length]), 100, 20, 1.0)) == pytest.approx(-min(0, (80 - length) / 20))
    assert float(overlong_penalties(torch.tensor([length]), 100, 20, 1.0)) == pytest.approx(lost)
    assert float(overlong_penalties(torch.tensor([length]), 100, 20, 0.5)) == pytest.approx(lost / 2)


def test_no_buffer_no_punishment():
    assert overlong_penalties(torch.tensor([1, 100]), 100, 0, 1.0).tolist() == [0.0, 0.0]
