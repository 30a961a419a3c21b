"""The filter H of the paper, one function a kind: the reason to drop a question, or None to keep it."""

from __future__ import annotations

from collections.abc import Collection

from conf.prep import FilterConfig
from data_prep.rows import Question, normalise

FILTER_VERSION = 2  # rises with every change of a rule below; goes into the manifest


def mcq(question: Question) -> str | None:
    """Keep where the gold option is among the listed options.

    Where the source states the gold's text beside its letter, the two must name the same option (ours: in the released
    Syn-QA they often do not, and which of them is right is unknown). Texts compare after NFC and with every run of
    whitespace as one blank.
    """
    listed = question.option_text(question.gold_label)
    if listed is None:
        return "gold_not_among_options"
    stated = question.gold_text
    if stated is None or stated == listed or normalise(stated) == normalise(listed):
        return None
    return "letter_and_text_disagree"


def open_ended(question: Question, max_words: int) -> str | None:
    """Keep where there is an answer and none has more than `max_words` words (the paper: at most 10).

    How the paper counts words is unknown; here they are what whitespace separates.
    """
    if not any(question.answers):
        return "answer_missing"
    return "answer_too_long" if any(len(answer.split()) > max_words for answer in question.answers) else None


def math(question: Question) -> str | None:
    """Keep where the answer is present and not empty."""
    return None if any(answer.strip() for answer in question.answers) else "answer_missing"


def math_level(question: Question, levels: Collection[int] | None) -> str | None:
    """Keep the wanted difficulty levels (1 to 5) of a source that states them; without `levels` keep all (ours)."""
    if levels is None or "level" not in question.meta or question.meta["level"] in levels:
        return None
    return "level_not_wanted"


def same_options(question: Question) -> bool:
    """Two options with one text: the text names no option, and either letter would be right (ours)."""
    return len(set(question.normal_options)) < len(question.normal_options)


def reason_against(question: Question, config: FilterConfig) -> str | None:
    """The first reason to drop the question, or None to keep it."""
    if question.kind == "mcq":
        return mcq(question) or ("options_equal" if same_options(question) else None)
    if question.kind == "open":
        return open_ended(question, config.max_answer_words)
    return math(question) or math_level(question, config.math_levels)
