"""The loop."""

import pytest

from conf.actor import OptimizerConfig
from conf.algorithm import CriticConfig
from recipes.rl.step import learning_rate


@pytest.mark.parametrize(
    ("warmup", "rates"),
    [
        (0, [1.0, 1.0, 1.0]),
        (1, [1.0, 1.0, 1.0]),
        (4, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]),
    ],
)
def test_the_learning_rate_warms_up_and_stays(warmup, rates):
    for settings in (OptimizerConfig(lr=3e-4, warmup_steps=warmup), CriticConfig(lr=3e-4, warmup_steps=warmup)):
        found = [learning_rate(settings, update) for update in range(len(rates))]
        assert found == pytest.approx([3e-4 * r for r in rates])
        assert learning_rate(settings, 10_000) == 3e-4
