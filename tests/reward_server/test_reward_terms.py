"""The normal form of sums of terms, against its parts and against the worker's judge."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_server.scoring import math, symbolic
from reward_server.scoring.terms import normal_form

X = (("x", 1),)
PI = (("\\pi", 1),)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("2x", {(X, 1): 2}),
        ("-x+3", {(X, 1): -1, ((), 1): 3}),
        ("x - x", {}),
        ("3x^2y", {((("x", 2), ("y", 1)), 1): 3}),
        ("3 x y", {((("x", 1), ("y", 1)), 1): 3}),
        (r"4\pi r^2", {((("\\pi", 1), ("r", 2)), 1): 4}),
        (r"\frac{4}{3} \pi", {(PI, 1): Fraction(4, 3)}),
        ("yx", {((("x", 1), ("y", 1)), 1): 1}),
        ("x^{12}", {((("x", 12),), 1): 1}),
        (r"\frac{410\pi}{58}", {(PI, 1): Fraction(205, 29)}),
        (r"23\pi/90", {(PI, 1): Fraction(23, 90)}),
        (r"\frac{1}{2}x", {(X, 1): Fraction(1, 2)}),
        (r"\frac{\sqrt{2}}{2}", {((), 2): Fraction(1, 2)}),
        (r"\sqrt{72}", {((), 2): 6}),
        (r"2\sqrt{2}\sqrt{8}", {((), 1): 8}),
        (r"\sqrt{0}", {}),
        ("1.5x", {(X, 1): Fraction(3, 2)}),
        ("0.1x+0.2x", {(X, 1): Fraction(3, 10)}),
    ],
)
def test_terms_of_a_sum(text, terms):
    assert normal_form(text) == terms


@pytest.mark.parametrize(
    "text",
    [
        *("", "x+", "+", "x--y", "2 3x", "2x 3", "2x3", "x^10", "x^{-1}", "x^y", "2^n", "1/2x", "x/0", "x/y"),
        *(
            "e",
            "2i",
            "f(x)",
            "dx",
            "lx",
            "abcd",
            "X",
            "x_1",
            "x!",
            "(x)",
            "x=1",
            "x,y",
            "√2",
            "２x",
            "x²",
            ".5x",
            "5.x",
        ),
        *(r"2\frac{1}{3}x", r"\frac{2}{3}5", r"\frac{x}{2}y", r"\frac{x}{y}", r"\frac{x+1}{2}", r"\sqrt{x}", r"\sqrt2"),
        *(r"\sqrt{10000001}", r"\sqrt{1001}\sqrt{1003}", r"\pix", r"\sin x", r"2\cdot x", "x" + "+1" * 100),
    ],
)
def test_what_is_more_than_a_sum_of_terms_is_left_to_a_worker(text):
    assert normal_form(text) is None


FACTORS = st.sampled_from(["", "x", "y", "x^2", "x^{3}", "xy", r"\pi", r"\pi^2", r"\sqrt{2}", r"\sqrt{12}", r"\pi x"])


@st.composite
def summand(draw) -> tuple[str, str]:
    """A sign and a term."""
    number = draw(st.integers(1, 12))
    factor = draw(FACTORS)
    shape = draw(st.sampled_from([r"{n}{f}", r"\frac{{{n}{f}}}{{6}}", r"{n}{f}/4", r"\frac{{{n}}}{{9}}{f}"]))
    text = shape.format(n=number, f=factor)
    return draw(st.sampled_from("+-")), text


def written(parts) -> str:
    """The sum as text, without a leading plus."""
    return "".join(sign + text for sign, text in parts).removeprefix("+")


SUMS = st.lists(summand(), min_size=1, max_size=4)


@given(SUMS, st.randoms())
def test_the_order_of_terms_changes_nothing(parts, random):
    shuffled = random.sample(parts, len(parts))
    assert normal_form(written(parts)) == normal_form(written(shuffled)) is not None


@given(SUMS, summand())
def test_a_term_more_is_another_sum(parts, more):
    added = normal_form(written([more]))
    assert (normal_form(written([*parts, more])) == normal_form(written(parts))) == (added == {})


@settings(max_examples=60, deadline=None)
@given(SUMS, SUMS, st.booleans(), st.randoms())
def test_as_the_worker_judges(one, other, equal, random):
    if equal:
        other = random.sample(one, len(one))
    gold, answer = written(one), written(other)
    expected = symbolic.same(gold, answer)
    assert (normal_form(gold) == normal_form(answer)) == expected
    assert math.check_gold(gold) in (True, None)
    told = math.compare(gold, answer)
    assert told is None or told == expected


def test_no_worker_is_asked():
    assert math.compare("11x^2+41x-858", "-858+41x+11x^2") is True
    assert math.compare("11x^2+41x-858", "11x^2-41x+858") is False
    assert math.compare(r"72\sqrt{13}", r"\sqrt{67392}") is True
    assert math.check_gold(r"\frac{410\pi}{58}") is True
    assert math.compare("5", r"\sqrt{25}") is None, "a plain number has rules of its own"
