"""The arithmetic of a report against values worked out by hand."""

import math

import pytest

from recipes.reporting.statistics import apart, means_of, smooth, wilson, window

Z = 1.96  # rounded, as in textbooks


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0.5, 10, 0.2366, 0.7634), (0.0, 20, 0.0, 0.1611), (1.0, 60, 0.9398, 1.0)]
)
def test_wilson_in_numbers(share, count, low, high):
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("count", [1, 7, 360])
def test_wilson_in_closed_form(count):
    assert wilson(0.0, count) == pytest.approx((0.0, Z**2 / (count + Z**2)), abs=1e-4)
    assert wilson(1.0, count) == pytest.approx((count / (count + Z**2), 1.0), abs=1e-4)
    reach = Z / (2 * math.sqrt(count + Z**2))  # at one half the interval is centred
    assert wilson(0.5, count) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.9])
def test_wilson_is_the_score_test_turned_round(share):
    """Its ends are the probabilities p with |share - p| = z * sqrt(p (1 - p) / n)."""
    for end in wilson(share, 50):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / 50), abs=1e-4)
    mirrored = wilson(1 - share, 50)
    assert wilson(share, 50) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))


def test_apart():
    assert apart((0.1, 0.2), (0.3, 0.4)) and apart((0.3, 0.4), (0.1, 0.2))
    assert not apart((0.1, 0.3), (0.3, 0.4)) and not apart(None, (0.3, 0.4)) and not apart((0.3, 0.4), None)


def test_smoothing():
    assert smooth([1.0, 2.0, 6.0, 3.0], 1) == [1.0, 2.0, 6.0, 3.0]
    assert smooth([1.0, 2.0, 6.0, 3.0], 3) == [1.5, 3.0, pytest.approx(11 / 3), 4.5]
    assert smooth([1.0, None, 6.0, None, None, None], 3) == [1.0, 3.5, 6.0, 6.0, None, None]
    line = [2.0 * i for i in range(30)]  # a straight line stays where all neighbours are there
    assert smooth(line, 5)[2:-2] == pytest.approx(line[2:-2]) and smooth([], 3) == []


def test_the_smoothing_window_is_odd_and_a_tenth_of_the_run():
    assert [window(steps) for steps in (0, 1, 7, 8, 40, 120, 1000)] == [1, 1, 1, 3, 5, 13, 101]
    assert all(window(steps) % 2 for steps in range(500))


def test_means_of_pieces():
    assert means_of([1, 2, 3, 4, 5], 2) == [1.5, 3.5, 5.0]
    assert means_of([1, 2, 3], 1) == [1, 2, 3] and means_of([], 4) == []
