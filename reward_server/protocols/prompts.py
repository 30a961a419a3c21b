"""Rendered prompts: where the response begins in a text that holds both, and what ends it."""

from __future__ import annotations

import re
import unicodedata

from reward_server.scoring.extract import OPEN
from reward_server.verdicts import show

# The shapes in which models spell their end and padding tokens. None of them can be part of a boxed answer.
_SPECIAL = re.compile(r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</?s>|<eos>|<pad>|<end_of_turn>|<turn\|>|\[PAD\]")
_LONGEST = 48
_STARTS = ("<", "[")


def response_after(query: str, prompt: str) -> str:
    """What follows the prompt in a query.

    Tokenizers that normalise (Qwen's makes NFC) give the prompt back in another form than they got it, so a query that
    begins with the prompt's NFC form is right, too.

    Raises:
        ValueError: the query does not begin with its prompt.
    """
    for form in (prompt, unicodedata.normalize("NFC", prompt)):
        if query.startswith(form):
            return query[len(form) :]
    at = next((i for i, (a, b) in enumerate(zip(query, prompt, strict=False)) if a != b), min(len(query), len(prompt)))
    raise ValueError(
        f"does not begin with its prompt; from character {at} on the query has {show(query[at : at + 20])} where the "
        f"prompt has {show(prompt[at : at + 20])}. Was the prompt cut at the length limit?"
    )


def without_end_tokens(text: str) -> str:
    """`text` without the special tokens (`<|im_end|>`, `</s>`, padding, …) that it ends with. Linear in the text."""
    end = len(text)
    while end:
        start = max(text.rfind(mark, max(0, end - _LONGEST), end) for mark in _STARTS)
        if start < 0 or not _SPECIAL.fullmatch(text, start, end):
            break
        end = start
    return text[:end]


def opens_thinking(prompt: str) -> bool:
    """True when the rendered prompt itself ends in `<think>`, so that the response starts inside it."""
    return prompt.rstrip().endswith(OPEN)
