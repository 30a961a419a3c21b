"""What a response answers whatever its form."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:/\d+)?")
_LABEL = re.compile(r"(?<![A-Za-z])[A-J](?![A-Za-z])")


def loose_answer(text: str, kind: str) -> str:
    """What a response answers, whatever its format: the last box, else the last number, label or word in the text."""
    start = text.rfind("\\boxed{")
    if start >= 0:
        depth = 0
        for position in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[start + len("\\boxed{") : position]
    if kind == "open":
        words = text.split("</think>")[-1].split()
        return words[-1] if words else ""
    found = (_LABEL if kind == "mcq" else _NUMBER).findall(text)
    return found[-1] if found else ""


def in_right_form(answer: str) -> str:
    """A bare answer as the rules want one, so that the same rules judge it."""
    return f"<think></think>\\boxed{{{answer}}}"
