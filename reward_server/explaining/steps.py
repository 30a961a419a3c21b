"""One step of an explanation, and how any text is shown in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KEPT, BROKEN = "kept", "broken"
"""Of a rule about the response."""
GOOD, BAD = "good", "bad"
"""Of a ground truth."""
EQUAL, DIFFERENT, UNSETTLED = "equal", "different", "unsettled"
"""Of a comparison; `UNSETTLED`: that takes a worker."""
NOTE = "note"
"""Something that was looked at and decides nothing by itself."""

SHOWN = 240
"""Characters of one text that are shown."""

_PAPER = "arXiv 2504.13941"
_PAGE = "docs/rewards.md"
RULES: dict[str, tuple[str, str]] = {
    "finish": (
        "A response that the length limit cut off before its box was complete is truncated: reward 0. Cut off after a "
        "complete box, it is judged like any other.",
        f"{_PAGE}#statuses",
    ),
    "format": (
        "After leading whitespace exactly one <think>…</think>, then the answer in a box. A prefilled prompt supplies "
        "the opening tag.",
        f"{_PAPER}, R_format; {_PAGE}#format",
    ),
    "box": (
        r"The last \boxed{…} after the last </think> counts; without any </think>, the last one anywhere. Where it is "
        r"unclosed or empty there is no answer: no earlier box stands in. \boxed 4 and \fbox{4} are no boxes.",
        f"{_PAPER}, R_acc; {_PAGE}#box",
    ),
    "gold": (
        "A ground truth that is empty, names no option or does not parse makes the item invalid, whatever the "
        "response: no reward, and left out of every mean.",
        f"{_PAGE}#invalid",
    ),
    "mcq": (
        "The label alone; or the label, then . : or a closing bracket, then its own option's text; or an option's full "
        "text that no other option shares. Case matters in labels. Without options, labels only.",
        f"{_PAGE}#mcq",
    ),
    "open": (
        "Equal after Unicode normalisation, case, whitespace, and punctuation and wrappers around the whole answer. "
        "Articles, plurals, - and % stay.",
        f"{_PAGE}#open",
    ),
    "math": (
        "Mathematical equality without numeric tolerance; order counts except in sets; units on both sides must agree; "
        "a sum or product left to do is not the number it equals. What is built to be slow is refused unread.",
        f"{_PAGE}#math",
    ),
    "exact": (
        "match=exact: the content of the box is the ground truth, character for character.",
        f"{_PAPER}, R_acc; {_PAGE}#exact",
    ),
    "shaping": (
        "Off by default. Otherwise: weight of the source × (reward + format credit − length penalty).",
        f"{_PAGE}#shaping",
    ),
    "reward": (
        "R = R_acc ∧ R_format. The status is the first that applies of error, bad_gold, timeout, truncated, no_box, "
        "bad_format, wrong, correct.",
        f"{_PAPER}, R; {_PAGE}#statuses",
    ),
}
"""The rule behind each kind of step, in a sentence, and where it comes from."""


@dataclass(frozen=True)
class Step:
    """One thing that was looked at.

    Attributes:
        step: the stage: "finish", "format", "box", "gold", "answer", "shaping" or "reward", in this order.
        part: what of it.
        result: one of the constants above; for the stage "reward" the verdict's status.
        why: what was found, in a sentence or two.
        rule: key of `RULES`; "" for the stage's own name.
    """

    step: str
    part: str
    result: str
    why: str
    rule: str = ""

    def to_json(self) -> dict[str, Any]:
        """The step with its rule spelled out."""
        rule, source = RULES[self.rule or self.step]
        return {
            "step": self.step,
            "part": self.part,
            "result": self.result,
            "why": self.why,
            "rule": rule,
            "source": source,
        }


def visible(text: str, limit: int = SHOWN) -> str:
    r"""`text` on one line and safe for any terminal, page and file: a NUL is shown as \x00, a lone surrogate as \ud800.

    A text that would take more than `limit` characters is shortened in the middle and its length given.
    """
    if len(text) > limit or len(_escape(text)) > limit:
        if not text[:limit].isprintable():
            limit //= 4
        if len(text) <= limit:
            return _escape(text)
        head = limit * 2 // 3
        return f"{_escape(text[:head])} […{len(text):,} characters…] {_escape(text[-(limit - head) :])}"
    return _escape(text)


def quoted(text: str, limit: int = SHOWN) -> str:
    """`visible` text in quotation marks."""
    return f"“{visible(text, limit)}”"


def counted(number: int, one: str, more: str | None = None) -> str:
    """`1 box`, `2 boxes`."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def difference(wanted: str, given: str) -> str:
    """Where the second text leaves the first, counting characters from 1; the texts are not equal."""
    at = next((i for i, (one, other) in enumerate(zip(wanted, given, strict=False)) if one != other), None)
    if at is not None:
        return (
            f"the first difference is character {at + 1:,}: {quoted(wanted[at : at + 20])} is wanted, "
            f"{quoted(given[at : at + 20])} stands there"
        )
    if len(given) < len(wanted):
        return f"the answer ends after character {len(given):,}; {quoted(wanted[len(given) :][:20])} is still wanted"
    more = quoted(given[len(wanted) :][:20])
    return f"the ground truth ends after character {len(wanted):,}; the answer goes on with {more}"


def _escape(text: str) -> str:
    return "".join(char if char.isprintable() else _name(char) for char in text)


def _name(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
