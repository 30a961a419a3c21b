"""The batches that a simulated run trains on: response lengths with a long tail, the same for the same seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from recipes.planning.lengths import where_reached
from recipes.planning.simulation.events import Batch

_LENGTHS = 0  # stream of random numbers


@dataclass(frozen=True)
class Load:
    """The batches of a run: log-normal response lengths, cut off at the longest.

    Attributes:
        prompts: of a step.
        samples: of a prompt.
        prompt_tokens: of every prompt.
        mean: response tokens, with those that were cut.
        spread: standard deviation of the logarithm before the cut; 0: all are `mean` long.
        longest: response tokens.
    """

    prompts: int
    samples: int
    prompt_tokens: int
    mean: float
    spread: float
    longest: int

    def __post_init__(self) -> None:
        if not 1 <= self.mean <= self.longest or self.spread < 0:
            raise ValueError(
                f"mean={self.mean}, longest={self.longest}, spread={self.spread}; allowed are 1 ≤ mean ≤ longest and a "
                "spread of at least 0"
            )

    @cached_property
    def median(self) -> float:
        """Of the lengths before the cut, so that the mean after it is `mean`: found by halving."""
        high = 1.0
        while cut_mean(high, self.spread, self.longest) < self.mean * (1 - 1e-9) and high < self.longest * 1e6:
            high *= 2
        return where_reached(lambda tried: cut_mean(tried, self.spread, self.longest), self.mean, high)

    def batch(self, seed: int, step: int) -> Batch:
        """The batch of a step. Its first prompts are those of a batch with more prompts."""
        draws = np.random.default_rng([seed, step, _LENGTHS])
        normal = draws.standard_normal((self.prompts, self.samples))
        drawn = np.exp(np.minimum(math.log(self.median) + self.spread * normal, math.log(self.longest)))
        lengths = np.clip(np.rint(drawn), 1, self.longest).astype(np.int64)
        return Batch(lengths, self.prompt_tokens, np.full_like(lengths, self.longest))


def cut_mean(median: float, spread: float, longest: float) -> float:
    """Mean of the smaller of `longest` and a log-normal number, in closed form."""
    if spread == 0:
        return min(median, longest)
    normal, place = NormalDist(), math.log(longest / median) / spread
    below = median * math.exp(spread**2 / 2) * normal.cdf(place - spread)
    return below + longest * normal.cdf(-place)
