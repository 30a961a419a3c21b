"""When two short texts are the same answer (docs/rewards.md, Short text)."""

from __future__ import annotations

import functools
import unicodedata

from reward_server.scoring.extract import closing_brace

MAX_CHARS = 10_000
"""Longer texts are compared as they stand: Unicode normalisation is quadratic on crafted runs of combining marks."""
REMEMBERED_CHARS = 200
"""Texts are remembered up to this length, so that memory stays bounded."""
MAX_WRAPPERS = 32
"""Nested wrappers taken off one text; deeper nesting stays and does not match."""

COMMANDS = ("text", "textbf", "mathrm")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`"}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_MARKS = {"*": "*", "_": "_"}
# Sentence punctuation only. `-` and `%` carry meaning, and so do `#`, `+`, `/`, `&` (C# is not C).
_BEFORE = ",;:!?¿¡"
_AFTER = ",;:!?.…。、，；：！？"


def same(one: str, other: str) -> bool:
    """True when both texts are equal after `normalise` and not empty."""
    one, other = normalise(one), normalise(other)
    return one == other and one != ""


def normalise(text: str) -> str:
    r"""NFKC, case, whitespace runs, then punctuation, quotes, brackets, `$ $` and `\text{}` around the whole text.

    Articles, plurals and everything inside the text stay. Never raises, whatever the text.
    """
    text = " ".join(text.split())
    if len(text) > MAX_CHARS:
        return text
    return _remembered(text) if len(text) <= REMEMBERED_CHARS else _normalised(text)


def _normalised(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    for _ in range(MAX_WRAPPERS):
        before = text
        text = _punctuation(unwrap_once(text, pairs=_QUOTES | _BRACKETS | _MARKS))
        if text == before:
            break
    return unicodedata.normalize("NFKC", text.casefold())


# The samples of a group share their ground truth, and often their answer.
_remembered = functools.lru_cache(512)(_normalised)


def strip_wrappers(text: str) -> str:
    r"""Take off `( )`, `[ ]`, `$ $`, quotes, `\text{} \textbf{} \mathrm{}` around the whole text, nested or not."""
    text = text.strip()
    for _ in range(MAX_WRAPPERS):
        inner = unwrap_once(text, pairs=_QUOTES | {"(": ")", "[": "]"})
        if inner == text:
            break
        text = inner
    return text


def unwrap_once(text: str, pairs: dict[str, str], commands: tuple[str, ...] = COMMANDS) -> str:
    """Take off the one wrapper around the whole text, if there is one; the text itself otherwise."""
    if len(text) < 2:
        return text
    first, last = text[0], text[-1]
    if first == "$":
        ends = 2 if text.startswith("$$") and text.endswith("$$") and len(text) > 4 else 1
        inner = text[ends:-ends]
        signs = inner.replace("\\\\", "").replace("\\$", "")  # without line breaks and dollars that are money
        return inner.strip() if last == "$" and "$" not in signs and not signs.endswith("\\") else text
    if pairs.get(first) == last:
        return text[1:-1].strip() if _encloses(text, first, last) else text
    if first == "\\" and last == "}":
        for command in commands:
            if text.startswith(command, 1):
                brace = text[1 + len(command) :].lstrip()
                if brace.startswith("{") and closing_brace(brace, 1) == len(brace) - 1:
                    return brace[1:-1].strip()
    return text


def _encloses(text: str, first: str, last: str) -> bool:
    """True when the first character's partner is the last character: `(a) or (b)` is not one bracket."""
    if first == last:
        return first not in text[1:-1]
    depth = 0
    for index, char in enumerate(text):
        depth += (char == first) - (char == last)
        if depth == 0:
            return index == len(text) - 1
    return False


def _punctuation(text: str) -> str:
    text = text.rstrip(_AFTER + " ").lstrip(_BEFORE + " ")
    # A leading full stop is a decimal point before a digit: .5 is not 5.
    return text.lstrip(". ") if text[:1] == "." and not text[1:2].isdigit() else text
