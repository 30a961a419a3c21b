"""What is refused before any computer algebra sees it: answers built to be slow (docs/rewards.md, Mathematics)."""

from __future__ import annotations

import re

from reward_server.scoring.latex import TOKEN

MAX_CHARS = 2000
"""Characters of one answer or ground truth that may go to a worker."""
MAX_DEPTH = 40
"""Nested brackets."""
MAX_DIGITS = 400
"""Digits of one literal that may go to a worker."""
MAX_TOWER = 2
r"""Exponents inside exponents: a^{b^c} passes, one more level does not."""
MAX_EXPONENT = 10_000
"""Largest number in an exponent, and largest argument of a factorial."""
MAX_BINOMIAL = 100_000
"""Largest literal beside a binomial coefficient."""

_TOWER_VALUE = re.compile(r"\^\{?\s*\(?(\d+)\^\{?(\d+)")
_EXPONENT = re.compile(r"\^\{?\s*[+-]?\(?(\d+)")
_FACTORIAL = re.compile(r"(\d+)\s*!")
_NESTED_FACTORIAL = re.compile(r"[!)}\]]\s*!")


def refusal(text: str) -> str | None:
    """Why a cleaned text may not go to a worker, or None. Looks at the text only, in linear time."""
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    depth, tower = _depths(text)
    if depth > MAX_DEPTH:
        return f"brackets nested deeper than {MAX_DEPTH}"
    if max(map(len, re.findall(r"\d+", text)), default=0) > MAX_DIGITS:
        return f"a number of more than {MAX_DIGITS} digits"
    if tower > MAX_TOWER:
        return f"exponents nested deeper than {MAX_TOWER}"
    for base, exponent in _TOWER_VALUE.findall(text):
        if len(exponent) > 5 or len(base) * int(exponent) > 8 or int(base) ** int(exponent) > MAX_EXPONENT:
            return f"an exponent above {MAX_EXPONENT}"
    if any(int(number) > MAX_EXPONENT for number in _EXPONENT.findall(text)):
        return f"an exponent above {MAX_EXPONENT}"
    if any(int(number) > MAX_EXPONENT for number in _FACTORIAL.findall(text)) or _nested_factorial(text):
        return f"a factorial of more than {MAX_EXPONENT} or of a factorial"
    if "\\binom" in text and any(int(number) > MAX_BINOMIAL for number in re.findall(r"\d+", text)):
        return f"a binomial coefficient of more than {MAX_BINOMIAL}"
    return None


def _nested_factorial(text: str) -> bool:
    return bool(_NESTED_FACTORIAL.search(text)) and text.count("!") > 1


def _depths(text: str) -> tuple[int, int]:
    """(deepest bracket, longest chain of exponents), the latter also for 5^5^5 written without braces."""
    deepest = tallest = 0
    groups: list[tuple[int, int]] = []  # what `around` and `chain` were before each open bracket
    around = chain = 0
    expecting = in_number = False
    for token in TOKEN.findall(text):
        if token == "^":
            chain, expecting, in_number = chain + 1, True, False
            tallest = max(tallest, around + chain)
        elif token in ("{", "(", "[", "\\{"):
            chain = chain if expecting else 0
            groups.append((around, chain))
            deepest = max(deepest, len(groups))
            around, chain, expecting, in_number = around + chain, 0, False, False
        elif token in ("}", ")", "]", "\\}"):
            if groups:
                around, chain = groups.pop()
            expecting = in_number = False
        elif expecting:
            expecting = token in " +-"
            in_number = token.isdigit()
        elif not (token.isspace() or (in_number and token.isdigit())):
            chain, in_number = 0, False
    return deepest, tallest
