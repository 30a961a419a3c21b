"""Long-tailed response lengths, and how full they keep a server's batch: closed forms, no simulation."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

_BISECTIONS = 60
_GOLDEN = (math.sqrt(5) - 1) / 2


@lru_cache(maxsize=256)
def response_lengths(mean: int, spread: float, longest: int, count: int) -> tuple[int, ...]:
    """Quantiles of a lognormal distribution that is cut off, longest first.

    Responses that would be longer are cut at `longest`, as `max_response_tokens` does; `mean` is the mean after that.

    Args:
        mean: tokens, at most `longest`.
        spread: standard deviation of the logarithm, before the cut.
        longest: tokens.
        count: samples; the i-th stands for the quantile (i + 0.5) / count.
    """
    if mean >= longest:
        return (longest,) * count
    factors = [math.exp(spread * NormalDist().inv_cdf((i + 0.5) / count)) for i in range(count)]
    # The median lies between the mean without a spread and one that puts everything at the cut.
    median = where_reached(
        lambda tried: sum(min(longest, tried * factor) for factor in factors), mean * count, longest / factors[0]
    )
    return tuple(max(1, min(longest, round(median * factor))) for factor in reversed(factors))


def where_reached(rising: Callable[[float], float], wanted: float, high: float) -> float:
    """The number between 0 and `high` from which on a rising function is at least `wanted`, found by halving."""
    low = 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return high


def longest_share(lengths: Sequence[int], servers: int) -> list[int]:
    """The samples of the server that has the longest one, where samples are dealt by length.

    Args:
        lengths: of the whole batch, longest first.
        servers: that share it equally.
    """
    return list(lengths[::servers])


def busy_steps(lengths: Sequence[int], slots: int) -> list[tuple[int, int]]:
    """How long a server has how many samples side by side: pairs of decode steps and samples.

    A waiting sample takes the first slot that becomes free, and every sample under way gets a token a step. No slot
    idles while samples wait, so the samples under way at step t are the slots whose last sample ends after t.

    Args:
        lengths: response tokens of the server's samples.
        slots: most samples side by side.
    """
    if len(lengths) <= slots:
        ends = list(lengths)
    else:
        ends = [0] * slots
        for length in _mixed(lengths):
            heapq.heappushpop(ends, ends[0] + length)
    found, before, under_way = [], 0, len(ends)
    for end in sorted(ends):
        if end > before:
            found.append((end - before, under_way))
            before = end
        under_way -= 1
    return found


def _mixed(lengths: Sequence[int]) -> list[int]:
    """Long and short ones in turn, as they come: no server knows how long an answer will be."""
    order = sorted(range(len(lengths)), key=lambda i: (i * _GOLDEN) % 1.0)
    return [lengths[i] for i in order]
