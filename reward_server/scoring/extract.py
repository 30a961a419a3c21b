"""Where the answer stands in a response, and whether the response keeps the format (docs/rewards.md)."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection

OPEN = "<think>"
CLOSE = "</think>"

OPENING_TAGS = "opening tags"
"""Not exactly one `<think>`, or one at all where the prompt supplied it."""
CLOSING_TAGS = "closing tags"
"""Not exactly one `</think>`."""
TEXT_BEFORE = "text before"
"""More than whitespace before the first `<think>`."""
BOX_AFTER = "box after"
"""No complete box with content after the last `</think>`."""
FAULTS = (OPENING_TAGS, CLOSING_TAGS, TEXT_BEFORE, BOX_AFTER)
"""All that can break the format."""

_BOX = "\\boxed"
_BOX_OPEN = re.compile(r"\\boxed\s*\{")
# A backslash takes the next character with it, so that `\{` and `\\` are skipped as one.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def check_format(response: str, think_prefilled: bool = False) -> int:
    """1 when the response is exactly one `<think>…</think>` and then an answer in a box, else 0.

    Args:
        response: everything the model wrote.
        think_prefilled: the prompt supplied the opening tag; a second one in the response breaks the rule.
    """
    return 0 if format_fault(response, think_prefilled) else 1


def format_fault(response: str, think_prefilled: bool = False, known: Collection[str] = ()) -> str | None:
    """The first of `FAULTS` that breaks the format and is not `known` yet; None where there is none (left)."""
    openings = response.count(OPEN)
    if openings != (0 if think_prefilled else 1) and OPENING_TAGS not in known:
        return OPENING_TAGS
    closings = response.count(CLOSE)
    if closings != 1 and CLOSING_TAGS not in known:
        return CLOSING_TAGS
    starts = think_prefilled or not openings or response.startswith(OPEN) or response.lstrip().startswith(OPEN)
    if not starts and TEXT_BEFORE not in known:
        return TEXT_BEFORE
    if closings and last_box(response, answer_start(response)) is None and BOX_AFTER not in known:
        return BOX_AFTER
    return None


def extract_answer(response: str) -> str | None:
    """Content of the box that accuracy reads, outer whitespace removed; None where there is no answer.

    The last box after the last `</think>`; only with no `</think>` at all, the last box anywhere.
    """
    return last_box(response, answer_start(response))


def has_complete_box(response: str) -> bool:
    """True when the box that accuracy reads is there and closed, be it empty."""
    return _last_box(response, answer_start(response)) is not None


def last_box(text: str, start: int = 0) -> str | None:
    r"""Content of the last `\boxed{…}` at or after `start`, outer whitespace removed.

    None when there is none, when the last `\boxed{` is never closed (an earlier box never stands in for it) or when
    it is empty. Whitespace before the brace is allowed; `\boxed 4` and `\fbox{4}` are not boxes.
    Takes time linear in the text, whatever the text.
    """
    return (_last_box(text, start) or "").strip() or None


def find_box(text: str, start: int = 0) -> tuple[int, int] | None:
    r"""Where the content of the last `\boxed{` at or after `start` begins, and where it ends: -1 if it is unclosed."""
    end = len(text)
    while (at := text.rfind(_BOX, start, end)) >= 0:
        if opened := _BOX_OPEN.match(text, at):
            begin = opened.end()
            return begin, closing_brace(text, begin)
        end = at
    return None


def count_boxes(text: str, start: int, end: int) -> int:
    r"""How many `\boxed{` there are between two indices, closed or not, one inside the other or not."""
    return len(_BOX_OPEN.findall(text, start, end))


def answer_start(response: str) -> int:
    """Index from which on a box counts: behind the last `</think>`, or 0 where there is none."""
    close = response.rfind(CLOSE)
    return 0 if close < 0 else close + len(CLOSE)


def is_cut_off(response: str, finish_reason: str | None) -> bool:
    """True when the length limit ended the response before the box that accuracy reads was complete."""
    return finish_reason == "length" and not has_complete_box(response)


@functools.lru_cache(1)  # the format, the answer and the status of a response all ask for it
def _last_box(text: str, start: int) -> str | None:
    found = find_box(text, start)
    if found is None:
        return None
    begin, end = found
    return text[begin:end] if end >= 0 else None


def closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one just before `start`, or -1."""
    depth = 1
    for token in _BRACE.finditer(text, start):
        brace = token[0]
        if brace == "}":
            depth -= 1
            if not depth:
                return token.start()
        elif brace == "{":
            depth += 1
    return -1
