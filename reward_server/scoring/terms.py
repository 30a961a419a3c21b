r"""Sums of terms, in a normal form: polynomials, multiples of π and square roots need no computer algebra system.

Powers of π and of variables, times square roots of square-free numbers, are linearly independent over the rationals:
two sums are equal exactly where their normal forms are.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction

MAX_CHARS = 200
"""Longer expressions are for a worker."""
MAX_RADICAND = 10**6
"""Larger square roots are for a worker: their square factors are looked for one by one."""

Monomial = tuple[tuple[tuple[str, int], ...], int]
"""Powers of variables and π, sorted by name, and the radicand of a square root (1: none)."""
Terms = dict[Monomial, Fraction]
"""Coefficients that are not zero."""

_TERM = re.compile(r"\s*([+-]?)\s*([^\s+-](?:[^+-]*[^\s+-])?)\s*")
_COEFFICIENT = re.compile(r"(\d+(?:\.\d+)?)\s*")
_FRACTION = re.compile(r"\\frac\{([^{}]*(?:\{\d+\}[^{}]*)*)\}\{(\d+)\}")
_DIVIDED = re.compile(r"([^/]*)/(\d+)")
# Letters that may mean something else are for a worker: Euler's number, the imaginary unit, differentials, functions.
_FACTOR = re.compile(r"(?:([abchjkmnp-z]|\\pi(?![A-Za-z]))(?:\^(?:(\d)(?!\d)|\{(\d{1,2})\}))?|\\sqrt\{(\d{1,7})\})\s*")
_WORD = re.compile(r"(?<!\\)[A-Za-z]{4}")


@functools.lru_cache(256)  # the samples of a group share their ground truth, and often their answer
def normal_form(text: str) -> Terms | None:
    r"""The terms of a cleaned expression, or None where it is more than a sum of terms.

    A term: a number, then variables (one letter each, with a whole exponent), `\pi` and `\sqrt{n}`; all of it perhaps
    over a whole number: `3x^2y`, `\frac{3\pi}{4}`, `\sqrt{2}/2`, `\frac{1}{2}x`.
    """
    if len(text) > MAX_CHARS or _WORD.search(text):
        return None
    total: Terms = {}
    at = 0
    while at < len(text):
        match = _TERM.match(text, at)
        if match is None or (at and not match[1]):
            return None
        term = _term(match[2])
        if term is None:
            return None
        monomial, coefficient = term
        total[monomial] = total.get(monomial, Fraction(0)) + (-coefficient if match[1] == "-" else coefficient)
        at = match.end()
    return {monomial: coefficient for monomial, coefficient in total.items() if coefficient} if at else None


def _term(text: str) -> tuple[Monomial, Fraction] | None:
    if match := _FRACTION.match(text):
        above, below, rest = match[1], int(match[2]), text[match.end() :].lstrip()
        if rest and (rest[0].isdecimal() or not above.isdecimal()):
            return None
        product = _product(above + rest)
    elif match := _DIVIDED.fullmatch(text):
        product, below = _product(match[1]), int(match[2])
    else:
        product, below = _product(text), 1
    return None if product is None or not below else (product[0], product[1] / below)


def _product(text: str) -> tuple[Monomial, Fraction] | None:
    if not text.isascii() or not text:
        return None
    coefficient, radicand, powers = Fraction(1), 1, dict[str, int]()
    at = 0
    if match := _COEFFICIENT.match(text):
        coefficient, at = Fraction(match[1]), match.end()
    while at < len(text):
        match = _FACTOR.match(text, at)
        if match is None:
            return None
        if match[4]:
            radicand *= int(match[4])
            if radicand > MAX_RADICAND:
                return None
        else:
            powers[match[1]] = powers.get(match[1], 0) + int(match[2] or match[3] or 1)
        at = match.end()
    outside, radicand = _take_out_squares(radicand)
    named = tuple(sorted((name, power) for name, power in powers.items() if power))
    return (named, radicand), coefficient * outside


def _take_out_squares(radicand: int) -> tuple[int, int]:
    """(a, b) with √radicand = a√b and b free of squares; (0, 1) for 0."""
    if not radicand:
        return 0, 1
    outside, factor = 1, 2
    while factor * factor <= radicand:
        while radicand % (factor * factor) == 0:
            radicand //= factor * factor
            outside *= factor
        factor += 1
    return outside, radicand
