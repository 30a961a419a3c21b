"""What the scripted endpoint writes for `crossthink synth`: questions about the facts of articles, and solutions.

Nothing of `data_prep` may be imported here: beside the endpoint's file the tests' folder of that name is found first.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

from synth_endpoint import (
    BAD_REQUEST,
    BROKEN,
    BUSY,
    CUT_OFF,
    FILTERED,
    LATE,
    MISFIT,
    PROSE,
    REFUSAL,
    RIGHT,
    WRONG,
    Chat,
)

LEAKY, TWINS, POINTING, STRANGER = "leaky", "twins", "pointing", "stranger"
FLAWS = {
    LEAKY: "answer_leaked",
    TWINS: "options_not_distinct",
    POINTING: "not_self_contained",
    STRANGER: "gold_not_in_options",
}
"""Outcomes of a request for a question that make a bad one, and the reason that it is dropped for."""
UNBOXED, DECLINES = "unboxed", "declines"
"""Outcomes of a request for a solution: no answer that can be read; the word that there is none."""

QUESTIONS = {
    PROSE: 0.10, MISFIT: 0.05, REFUSAL: 0.04, FILTERED: 0.02, BAD_REQUEST: 0.02, CUT_OFF: 0.04, BUSY: 0.04,
    BROKEN: 0.04, WRONG: 0.10, LEAKY: 0.04, TWINS: 0.04, POINTING: 0.04, STRANGER: 0.04,
}  # fmt: skip
SOLUTIONS = {
    WRONG: 0.26, UNBOXED: 0.07, DECLINES: 0.16, PROSE: 0.03, REFUSAL: 0.02, CUT_OFF: 0.03, BUSY: 0.02, BROKEN: 0.02,
}  # fmt: skip
SHARES = {"draft_mcq": QUESTIONS, "draft_math": QUESTIONS, "*": SOLUTIONS}
"""What the endpoint does in which share of the requests; "*" are solutions."""
LATER = {name: {LATE: 0.01} | shares for name, shares in SHARES.items()}
"""The same with some that are late, which takes time."""
BRAIN = f"{__file__}:brain"

_ONSETS = ("b", "br", "c", "d", "dr", "f", "g", "h", "k", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "tr", "v")
_VOWELS, _CODAS = ("a", "e", "i", "o", "u"), ("", "", "l", "n", "r", "s")
FACT = re.compile(r"The (\w+ \w+) was first described by (\w+ \w+) after")
_THING = re.compile(r"describe the (\w+ \w+)")
SHOWN = re.compile(r"^([A-Z])\. (.+)$", re.MULTILINE)


def word_of(key: str) -> str:
    """A made-up name, always the same for the same key."""
    draw = random.Random(key)
    parts = [draw.choice(_ONSETS) + draw.choice(_VOWELS) + draw.choice(_CODAS) for _ in range(3)]
    return "".join(parts).capitalize()


def person_of(thing: str) -> str:
    """Who first described it."""
    return f"{word_of('first/' + thing)} {word_of('last/' + thing)}"


def brain(chat: Chat, outcome: str) -> str:
    """A question as JSON, or a solution."""
    if "<passage>" in chat.last:
        return json.dumps(question_of(FACT.search(chat.last)[1], outcome))  # type: ignore[index]
    if chat.last.startswith("Write one mathematical problem"):
        return json.dumps({"question": problem_of(chat.last, outcome)})
    if outcome == UNBOXED:
        return "It is hard to say, but it should be the first of them."
    if outcome == DECLINES:
        return r"As it stands nobody can know. \boxed{unanswerable}"
    return rf"It follows at once that \boxed{{{boxed(chat, outcome)}}}"


def question_of(thing: str, outcome: str) -> dict[str, Any]:
    """A multiple-choice question about who described this first."""
    right = person_of(thing)
    others = [person_of(f"{thing}, not {at}") for at in range(3)]
    question = f"Who was the first to describe the {thing} after a long winter?"
    if outcome == LEAKY:
        question = f"Who was the first to describe the {thing}, as {right} did?"
    if outcome == POINTING:
        question = f"According to the passage, who was the first to describe the {thing}?"
    options = [right, others[0], others[1], others[1] if outcome == TWINS else others[2]]
    answer = {WRONG: others[0], STRANGER: person_of("nobody")}.get(outcome, right)
    return {"question": question, "options": options, "answer": answer}


def problem_of(asked: str, outcome: str = RIGHT) -> str:
    """A problem for this request; its numbers depend on all of it."""
    digest = hashlib.sha256(asked.encode()).digest()
    boxes, things, weeks = 11 + digest[0], 11 + digest[1], 2 + digest[2] % 30
    told = f"{word_of(asked)} packs {boxes} boxes a week and puts {things} things into each."
    asks = f"How many things are packed in {weeks} weeks?"
    if outcome == POINTING:
        asks = "According to the passage, how many things are packed in a year?"
    if outcome == LEAKY:
        asks += " The answer: many."
    return f"{told} {asks}"


def boxed(chat: Chat, outcome: str) -> str:
    """What stands in a solution's box: a letter or an option's text; a product, plain or as a fraction."""
    options = dict(SHOWN.findall(chat.last))
    if not options:
        value = product(chat.last) + (1 + int(chat.number("which") * 3)) * (outcome == WRONG)
        return rf"\frac{{{2 * value}}}{{2}}" if chat.number("form") < 0.2 else str(value)
    right = person_of(_THING.search(chat.last)[1])  # type: ignore[index]
    wrong = sorted(set(options.values()) - {right})
    text = wrong[int(chat.number("which") * len(wrong))] if outcome == WRONG else right
    label = next(label for label, one in options.items() if one == text)
    return text if chat.number("form") < 0.3 else label


def product(problem: str) -> int:
    """The answer of `problem_of`'s problem."""
    boxes, things, weeks = (int(digits) for digits in re.findall(r"\d+", problem)[:3])
    return boxes * things * weeks
