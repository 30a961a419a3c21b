"""What must come of a run of `crossthink synth` with the scripted endpoint.

The endpoint decides from a request alone what it does (`synth_endpoint.py`). `expected_qa` and `expected_math` ask the
same of every request that a run must make, and count the votes for themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from synth_brain import DECLINES, FACT, FLAWS, LEAKY, POINTING, SHOWN, boxed, problem_of, question_of
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

from data_prep.synthesis.answers import shuffled_options
from data_prep.synthesis.calls.request import Request
from data_prep.synthesis.items import mcq_draft
from data_prep.synthesis.personas import draw_pairs, load_personas, load_skills
from data_prep.synthesis.prompts import load_prompts
from data_prep.synthesis.schemas import draft_math, draft_mcq
from data_prep.synthesis.subjects import load_subjects
from data_prep.synthesis.writing import Wording

FAILED = {REFUSAL: "refused", FILTERED: "refused", BAD_REQUEST: "refused", CUT_OFF: "cut_off", LATE: "late"}


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
        stored: key under which an answer is stored to the request that it answers.
        tasks: request to how many of the tasks make it.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    stored: dict[str, str] = field(default_factory=dict)
    tasks: Counter[str] = field(default_factory=Counter)


class Foretold:
    """Goes through the requests of a run as the endpoint will."""

    def __init__(self, config: Any, shares: dict[str, dict[str, float]]) -> None:

        self.config, self.shares, self.expected = config, shares, Expected()
        self.wording = Wording(load_prompts(None), config.options, tuple(config.difficulties), 6000, config.seed)
        self._asked: set[tuple[int, str]] = set()

    def of_page(self, task: int, name: str, text: str, subject: str, subtopic: str) -> None:
        """A page that reaches the writer, of a subject."""

        difficulty, prompts = self.wording.difficulty(name), self.wording.prompts
        prompt = prompts.question_mcq.render(
            subject=subject.replace("_", " "), subtopic=subtopic, difficulty=difficulty, count=4, passage=text.strip()
        )
        outcome = self._written(task, prompt, "draft_mcq", FLAWS)
        if outcome is None:
            return
        draft = mcq_draft(question_of(FACT.search(prompt)[1], outcome), subject, subtopic, difficulty, name)  # type: ignore[index]
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
            if outcome in FAILED or outcome in flaws:
                reason = f"written_{FAILED[outcome]}" if outcome in FAILED else f"checked_{flaws[outcome]}"
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
                chat = chat_of(self._request(prompt, "*", draw=draw))
                answers[_text(chat, boxed(chat, WRONG if outcome == WRONG else RIGHT))] += 1
        vote = self.config.vote
        reason = verdict(answers, declined, len(asked), vote)
        if reason is not None:
            self.expected.dropped[f"voted_{reason}"] += 1
            return
        ((winner, winning),) = answers.most_common(1)
        self.expected.rows[name] = Row(stem, winner, (len(asked), answers.total(), winning), difficulty)

    def _outcome(self, task: int, prompt: str, purpose: str, **drawn: int) -> str:
        request = self._request(prompt, purpose, **drawn)
        chat = chat_of(request)
        outcome = chat.outcome(self.shares, purpose)
        if (task, chat.key) not in self._asked:  # a task asks nothing twice
            self._asked.add((task, chat.key))
            again = outcome in (BUSY, BROKEN) and not self.expected.lines[chat.key]
            tries = 1 + (self.config.writer.retries if outcome == LATE else 0)
            self.expected.lines[chat.key] += tries + again
            self.expected.outcomes[outcome] += 1
            self.expected.stored[request.key("small")] = chat.key
            self.expected.tasks[chat.key] += 1
        return outcome

    def _request(self, prompt: str, purpose: str, **drawn: int) -> Any:
        """As the run makes it; of purpose "*" it is for a solution."""

        calls = self.config.solver if purpose == "*" else self.config.writer
        schema = {"*": None, "draft_math": draft_math(), "draft_mcq": draft_mcq(self.config.options)}[purpose]
        return Request(
            purpose="solution" if purpose == "*" else "question",
            messages=({"role": "user", "content": prompt},),
            max_tokens=calls.max_tokens,
            temperature=calls.temperature,
            top_p=calls.top_p,
            seed=self.config.seed,
            schema=schema,
            schema_name=purpose,
            **drawn,
        )


def chat_of(request: Any) -> Chat:
    """A request as the endpoint sees it."""
    return Chat([dict(message) for message in request.messages], request.options(False)["seed"])


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
    return str(int(fraction[1]) // 2) if fraction else dict(SHOWN.findall(chat.last)).get(box, box)


def expected_qa(config: Any, shares: Any, pages: Iterable[tuple[int, dict[str, Any]]]) -> Expected:
    """Of pages as they reach the subjects' step: (task, line of its file)."""
    from data_prep.synthesis.routing import LexicalRouter

    router, told = LexicalRouter(load_subjects(None), config.subjects.least_score), Foretold(config, shares)
    for task, page in pages:
        (route,) = router.route([page["text"]])
        if route.subject is not None and route.subtopic is not None:
            told.of_page(task, page["id"], page["text"], route.subject, route.subtopic)
    return told.expected


def expected_math(config: Any, shares: Any) -> Expected:
    """Of the pairs that a run draws."""

    told = Foretold(config, shares)
    pairs = draw_pairs(load_personas(None), load_skills(None), config.problems, config.seed)
    for task in range(config.tasks):
        for pair in pairs[task :: config.tasks]:
            told.of_pair(task, pair.persona, pair.skill.name, pair.skill.area)
    return told.expected
