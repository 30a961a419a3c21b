"""Is a question fit to be trained on? One function a reason, each None where the question passes.

The paper's own checks are unknown but for the limit of ten words and the gold among the options; the
others are ours. `draft_reason` runs before anybody solves the question, `answer_reason` once there is a right answer,
which is first the one that the writer claims and then the one that won the vote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep import filters
from data_prep.rows import Question
from data_prep.sources.syn_qa import split_gold, split_options
from data_prep.stems import gold_rule, stem_rule
from data_prep.synthesis.answers import declines
from data_prep.synthesis.items import Candidate, Draft, gold_text
from data_prep.synthesis.self_contained import not_self_contained
from reward_server.scoring import math, mcq
from reward_server.scoring.judge import Reply, SlowMath

LONG_TEXT = 20
"""Characters from which the length of an option gives it away: among shorter ones `1000` stands beside `5`."""
RARE_WORD = 7
"""Letters from which a single word of the answer in the question gives it away."""

_ASKS = re.compile(
    r"\?|_{2,}"
    r"|(?:^|[.:;,!\n]\s*|\b(?:and|then|please|to) )(?:find|determine|compute|calculate|evaluate|solve|simplify|express"
    r"|factor|expand|identify|name|give|state|select|choose|convert|write|estimate|complete|classify|how|what|which|who"
    r"|whom|whose|when|where|why)\b",
    re.IGNORECASE,
)
_FINISHED = re.compile(r"[.!;]\s*$")
_HANGING = re.compile(r"(?:\.\.\.|…|[,;(\[]|\b(?:and|or|but))\s*$", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:i (?:cannot|can['’]t|am unable)|i['’]m sorry|i am sorry|as an ai|language model)\b"
    r"|^\W*(?:n/?a|not applicable|tbd|placeholder|option [a-z0-9]{1,2}"
    r"|(?:correct|wrong|right|incorrect) (?:answer|option))\W*$",
    re.IGNORECASE,
)
_TELLS = re.compile(
    r"\b(?:correct|right) (?:answer|option|choice) (?:is|would be)\b|\banswer\s*:\s*\S|\\boxed", re.IGNORECASE
)
# Words that both a question and its answer may well hold.
_COMMON = frozenset(
    ("increase", "increases", "increased", "decrease", "decreases", "decreased", "constant", "positive", "negative")
    + ("unchanged", "neither", "nothing", "everything", "another", "because", "without", "between")
)
_UNPRINTABLE = re.compile("[\x00\ud800-\udfff]")  # what `prep` drops as bad_characters


@dataclass(frozen=True)
class Limits:
    """What the checks measure by; the defaults stand in conf.

    Attributes:
        options: of a multiple-choice question.
        question_words: a question of fewer is none.
        answer_words: an open answer has at most so many (the paper's ten).
        length_ratio: how many times longer or shorter than every other option the right one may be.
    """

    options: int
    question_words: int
    answer_words: int
    length_ratio: float


def draft_reason(draft: Draft, limits: Limits) -> str | None:
    """The first reason against a draft, its claimed answer included; None where it may be solved."""
    reason = bad_characters(draft) or no_question(draft, limits.question_words) or not_self_contained(draft.question)
    if reason is None and draft.kind == "mcq":
        reason = (
            wrong_option_count(draft, limits.options)
            or options_implausible(draft)
            or options_not_distinct(draft)
            or gold_not_in_options(draft)
            or not_readable(draft)
        )
    elif reason is None and draft.kind == "open":
        reason = needs_options(draft)
    if reason is not None:
        return reason
    if not draft.claimed:
        return answer_leaked(draft, "")
    return answer_reason(draft, draft.claimed_label or draft.claimed, limits)


def answer_reason(draft: Draft, winner: str, limits: Limits) -> str | None:
    """The first reason against a draft whose right answer is `winner` (of kind mcq: a label), or None."""
    gold = gold_text(draft, winner)
    reason = answer_leaked(draft, gold)
    if draft.kind == "mcq":
        return reason or gold_stands_out(draft, gold, limits.length_ratio)
    return reason or (answer_too_long(draft, gold, limits.answer_words) if draft.kind == "open" else None)


def candidate_reason(candidate: Candidate, limits: Limits) -> str | None:
    """Why the vote decides nothing, or the first reason against its answer; None where the candidate is kept."""
    if candidate.vote.reason is not None:
        return candidate.vote.reason
    assert candidate.vote.winner is not None
    return answer_reason(candidate.draft, candidate.vote.winner, limits)


def bad_characters(draft: Draft) -> str | None:
    """A NUL or half a surrogate pair: neither a tokenizer nor Parquet takes them."""
    return "bad_characters" if _UNPRINTABLE.search("\n".join([draft.question, *draft.options, draft.claimed])) else None


def no_question(draft: Draft, least_words: int) -> str | None:
    """Too short, unfinished, or nothing is asked. A multiple-choice stem may be a sentence to complete."""
    question = draft.question
    if len(question.split()) < least_words or _HANGING.search(question):
        return "no_question"
    if _ASKS.search(question) or (draft.kind == "mcq" and not _FINISHED.search(question)):
        return None
    return "no_question"


def needs_options(draft: Draft) -> str | None:
    """An open question whose words point at options (`data_prep.stems`)."""
    return "needs_options" if stem_rule(draft.question) else None


def wrong_option_count(draft: Draft, count: int) -> str | None:
    """Another number of options than was asked for."""
    return None if len(draft.options) == count else "wrong_option_count"


def options_implausible(draft: Draft) -> str | None:
    """An option that is empty, a refusal or a stand-in, or that speaks of the other options ("all of the above")."""
    labels = dict(draft.labelled).keys()
    for text in draft.options:
        refers = gold_rule(text, labels, draft.question) == "names_options"
        if refers or not mcq.option_text(text) or _REFUSAL.search(text):
            return "options_implausible"
    return None


def options_not_distinct(draft: Draft) -> str | None:
    """Two options that the reward cannot tell apart."""
    return (
        "options_not_distinct" if len({mcq.option_text(text) for text in draft.options}) < len(draft.options) else None
    )


def gold_not_in_options(draft: Draft) -> str | None:
    """The claimed answer is none of the options."""
    return "gold_not_in_options" if draft.claimed_label is None else None


def not_readable(draft: Draft) -> str | None:
    """The reader of Syn-QA would not find the same stem and options, or the reward not the same option.

    So it is with a stem that ends in what looks like options, a last option over several paragraphs, or an option whose
    text is another's letter.
    """
    options = draft.labelled
    if split_options(draft.question_text.strip()) != (draft.question, options):
        return "not_readable"
    for label, text in options:
        named = [mcq.labels(answer, options) for answer in (text, f"{label}. {text}")]
        if split_gold(f"{label}: {text}") != (label, text) or named != [{label}, {label}]:
            return "not_readable"
    return None


def gold_stands_out(draft: Draft, gold: str, ratio: float) -> str | None:
    """`options_implausible` where the right option is more than `ratio` times as long as any other, or as short."""
    others = [len(text) for text in draft.options if text != gold]
    if not others:
        return None
    longer = len(gold) >= LONG_TEXT and len(gold) > ratio * max(others)
    shorter = min(others) >= LONG_TEXT and ratio * len(gold) < min(others)
    return "options_implausible" if longer or shorter else None


def answer_leaked(draft: Draft, gold: str) -> str | None:
    """The question gives its answer away: says so, or holds several words or a rare word of it.

    A stem that also holds another option compares them ("Is it ice or steam that ..."), and numbers and symbols of a
    mathematical answer may stand in its problem by chance: neither is a leak.
    """
    if _TELLS.search(draft.question):
        return "answer_leaked"
    if draft.kind == "math" or not _told_by(gold) or not _holds(draft.question, gold):
        return None
    compares = any(_holds(draft.question, text) for text in draft.options if text != gold)
    return None if compares else "answer_leaked"


def answer_too_long(draft: Draft, gold: str, max_words: int) -> str | None:
    """Not in the short-answer form: more than the paper's ten words."""
    return filters.open_ended(Question("synth", "gpr", "open", draft.question, answers=(gold,)), max_words)


def not_answerable(solutions: Sequence[str], answers: Sequence[str | None], share: float) -> str | None:
    """At least this share of the solutions say that the question has no answer, or none among its options.

    Args:
        solutions: what the model wrote.
        answers: what was read from each, None where nothing could be.
        share: of all the solutions, above 0.
    """
    saying = sum(answer is None and declines(text) for text, answer in zip(solutions, answers, strict=True))
    return "not_answerable" if solutions and saying >= share * len(solutions) else None


async def bad_gold(answer: str, slow: SlowMath) -> str | None:
    """A mathematical answer that the reward could not judge others against (as `data_prep.golds` asks it)."""
    good = math.check_gold(answer)
    if good is None:
        reply: Reply = await slow.gold_is_good(answer)
        good = reply.value
    return None if good else "bad_gold"


def _told_by(gold: str) -> bool:
    """Whether finding the answer's words in the question means something: several words, or a rare one."""
    words = re.findall(r"[^\W\d_]{2,}", gold.lower())
    if len(words) >= 2:
        return any(len(word) >= 4 for word in words)
    return bool(words) and len(words[0]) >= RARE_WORD and words[0] not in _COMMON


def _holds(question: str, text: str) -> bool:
    """Whether the words of `text` stand in `question`, one after another."""
    words = [" ".join(re.findall(r"\w+", one.lower())) for one in (question, text)]
    return bool(words[1]) and f" {words[1]} " in f" {words[0]} "
