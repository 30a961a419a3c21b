"""The arithmetic of a report: intervals and means, of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from recipes.evaluation.intervals import Interval

Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile


def wilson(share: float, count: int) -> Interval:
    """The 95 % Wilson score interval of a share of `count` yes-no outcomes."""
    middle = share + Z95 * Z95 / (2 * count)
    reach = Z95 * math.sqrt(share * (1 - share) / count + Z95 * Z95 / (4 * count * count))
    scale = 1 + Z95 * Z95 / count
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def apart(one: Interval | None, other: Interval | None) -> bool:
    """Whether two intervals are known and do not meet."""
    return bool(one and other and (one[1] < other[0] or other[1] < one[0]))


def window(steps: int) -> int:
    """How many neighbouring steps a smoothed line is the mean of: odd, and 1 (no smoothing) in very short runs."""
    return 1 if steps < 8 else max(3, steps // 20 * 2 + 1)


def smooth(values: Sequence[float | None], size: int) -> list[float | None]:
    """Mean of the known values among `size` neighbours, centred; at both ends of those that there are."""
    half = size // 2
    found: list[float | None] = []
    for i in range(len(values)):
        near = [v for v in values[max(0, i - half) : i + half + 1] if v is not None]
        found.append(fmean(near) if near else None)
    return found


def means_of(values: Sequence[float], size: int) -> list[float]:
    """Mean of every `size` values in turn; the last of those that are left."""
    return [fmean(values[start : start + size]) for start in range(0, len(values), size)]
