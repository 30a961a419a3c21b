"""What the scripted endpoint writes for `crossthink synth`, and what must come of it.

The endpoint decides from a request alone what it does (`synth_endpoint.py`); so `expected_qa` and `expected_math` ask
the same of every request that a run must make, and count the votes for themselves. The endpoint's process has no
`data_prep`, so nothing of it is imported before that.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from synth_endpoint import BROKEN, BUSY, CUT_OFF, FILTERED, LATE, MISFIT, PROSE, REFUSAL, RIGHT, WRONG, Chat

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
BAD_REQUEST = "bad_request"

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
_FACT = re.compile(r"The (\w+ \w+) was first described by (\w+ \w+) after")
_THING = re.compile(r"describe the (\w+ \w+)")
_SHOWN = re.compile(r"^([A-Z])\. (.+)$", re.MULTILINE)
_FAILED = {REFUSAL: "refused", FILTERED: "refused", BAD_REQUEST: "refused", CUT_OFF: "cut_off", LATE: "late"}


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
        return json.dumps(question_of(_FACT.search(chat.last)[1], outcome))  # type: ignore[index]
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
    options = dict(_SHOWN.findall(chat.last))
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


@dataclass(frozen=True)
class Row:
    """A row that must come out: its stem, the text of its answer and its votes (asked, valid, winning)."""

    stem: str
    answer: str
    votes: tuple[int, int, int]
    difficulty: str


@dataclass
class Expected:
    """What must become of documents.

    Attributes:
        rows: by document (WARC record, or persona and skill), in order.
        dropped: counts of the others, as the step that writes names the reason.
        lines: request (`Chat.key`) to how often the endpoint hears it.
        outcomes: how often each outcome of the endpoint was met.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)


class Foretold:
    """Goes through the requests of a run as the endpoint will."""

    def __init__(self, config: Any, shares: dict[str, dict[str, float]]) -> None:
        from data_prep.synthesis.prompts import load_prompts
        from data_prep.synthesis.writing import Wording

        self.config, self.shares, self.expected = config, shares, Expected()
        self.wording = Wording(load_prompts(None), config.options, tuple(config.difficulties), 6000, config.seed)
        self._asked: set[tuple[int, str]] = set()

    def of_page(self, task: int, name: str, text: str, subject: str, subtopic: str) -> None:
        """A page that reaches the writer, of a subject."""
        from data_prep.synthesis.answers import shuffled_options
        from data_prep.synthesis.items import mcq_draft

        difficulty, prompts = self.wording.difficulty(name), self.wording.prompts
        prompt = prompts.question_mcq.render(
            subject=subject.replace("_", " "), subtopic=subtopic, difficulty=difficulty, count=4, passage=text.strip()
        )
        outcome = self._written(task, prompt, "draft_mcq", FLAWS)
        if outcome is None:
            return
        draft = mcq_draft(question_of(_FACT.search(prompt)[1], outcome), subject, subtopic, difficulty, name)  # type: ignore[index]
        asked = []
        for draw in range(self.config.vote.solutions):
            shown = shuffled_options(draft.options, draft.question, draw)
            asked.append(prompts.solution_mcq.render(question=draft.question, options=shown.lines()))
        self._voted(task, name, draft.question, asked, difficulty)

    def of_pair(self, task: int, persona: str, skill: str, area: str) -> None:
        """A pair that a problem is written for."""
        name = f"{persona}\n{skill}"
        difficulty, prompts = self.wording.difficulty(name), self.wording.prompts
        prompt = prompts.problem.render(persona=persona, skill=skill, area=area, difficulty=difficulty)
        flaws = {flaw: FLAWS[flaw] for flaw in (LEAKY, POINTING)}
        outcome = self._written(task, prompt, "draft_math", flaws)
        if outcome is not None:
            problem = problem_of(prompt)
            asked = [prompts.solution_math.render(question=problem)] * self.config.vote.solutions
            self._voted(task, name, problem, asked, difficulty)

    def _written(self, task: int, prompt: str, purpose: str, flaws: dict[str, str]) -> str | None:
        """The outcome that a question comes from; None where there is none, which is counted."""
        for attempt in range(self.config.writer.json_tries):
            outcome = self._outcome(task, prompt, purpose, attempt=attempt)
            if outcome in (PROSE, MISFIT):
                continue
            if outcome in _FAILED or outcome in flaws:
                reason = f"written_{_FAILED[outcome]}" if outcome in _FAILED else f"checked_{flaws[outcome]}"
                self.expected.dropped[reason] += 1
                return None
            return outcome
        self.expected.dropped["written_prose"] += 1
        return None

    def _voted(self, task: int, name: str, stem: str, asked: Sequence[str], difficulty: str) -> None:
        answers, declined = Counter[str](), 0
        for draw, prompt in enumerate(asked):
            outcome = self._outcome(task, prompt, "*", draw=draw)
            declined += outcome == DECLINES
            if outcome in (RIGHT, WRONG, BUSY, BROKEN):
                chat = self._chat(prompt, draw=draw)
                answers[_text(chat, boxed(chat, WRONG if outcome == WRONG else RIGHT))] += 1
        vote = self.config.vote
        reason = verdict(answers, declined, len(asked), vote)
        if reason is not None:
            self.expected.dropped[f"voted_{reason}"] += 1
            return
        ((winner, winning),) = answers.most_common(1)
        self.expected.rows[name] = Row(stem, winner, (len(asked), answers.total(), winning), difficulty)

    def _outcome(self, task: int, prompt: str, purpose: str, **drawn: int) -> str:
        chat = self._chat(prompt, **drawn)
        outcome = chat.outcome(self.shares, purpose)
        if (task, chat.key) not in self._asked:  # a task asks nothing twice
            self._asked.add((task, chat.key))
            again = outcome in (BUSY, BROKEN) and not self.expected.lines[chat.key]
            tries = 1 + (self.config.writer.retries if outcome == LATE else 0)
            self.expected.lines[chat.key] += tries + again
            self.expected.outcomes[outcome] += 1
        return outcome

    def _chat(self, prompt: str, draw: int = 0, attempt: int = 0) -> Chat:
        from data_prep.synthesis.calls.request import draw_seed

        return Chat([{"role": "user", "content": prompt}], draw_seed(self.config.seed, draw, attempt))


def verdict(answers: Counter[str], declined: int, asked: int, vote: Any) -> str | None:
    """Why these answers decide nothing, or None."""
    if declined >= vote.declined * asked:
        return "not_answerable"
    if answers.total() < vote.least_valid:
        return "too_few_valid"
    sizes = sorted(answers.values(), reverse=True)
    if sizes[1:] and sizes[0] == sizes[1]:
        return "tie"
    return "below_threshold" if sizes[0] / answers.total() < vote.threshold else None


def _text(chat: Chat, box: str) -> str:
    """A box's meaning, whatever its form."""
    fraction = re.fullmatch(r"\\frac\{(\d+)\}\{2\}", box)
    return str(int(fraction[1]) // 2) if fraction else dict(_SHOWN.findall(chat.last)).get(box, box)


def expected_qa(config: Any, shares: Any, pages: Iterable[tuple[int, dict[str, Any]]]) -> Expected:
    """Of pages as they reach the subjects' step: (task, line of its file)."""
    from data_prep.synthesis.routing import LexicalRouter
    from data_prep.synthesis.subjects import load_subjects

    router, told = LexicalRouter(load_subjects(None), config.subjects.least_score), Foretold(config, shares)
    for task, page in pages:
        (route,) = router.route([page["text"]])
        if route.subject is not None and route.subtopic is not None:
            told.of_page(task, page["id"], page["text"], route.subject, route.subtopic)
    return told.expected


def expected_math(config: Any, shares: Any) -> Expected:
    """Of the pairs that a run draws."""
    from data_prep.synthesis.personas import draw_pairs, load_personas, load_skills

    told = Foretold(config, shares)
    pairs = draw_pairs(load_personas(None), load_skills(None), config.problems, config.seed)
    for task in range(config.tasks):
        for pair in pairs[task :: config.tasks]:
            told.of_pair(task, pair.persona, pair.skill.name, pair.skill.area)
    return told.expected
