"""From a page, or a persona and a skill, to a question whose answer several solutions agree on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from conf.synth import CallsConfig, VoteConfig
from data_prep.synthesis.answers import boxed_answer, shuffled_options
from data_prep.synthesis.calls.caller import Caller
from data_prep.synthesis.calls.request import Failed, Request
from data_prep.synthesis.checks import Limits, bad_gold, candidate_reason, draft_reason, not_answerable
from data_prep.synthesis.items import Candidate, Draft, Page, math_draft, mcq_draft
from data_prep.synthesis.personas import Pair
from data_prep.synthesis.prompts import Prompt, SynthPrompts
from data_prep.synthesis.schemas import draft_math, draft_mcq
from data_prep.synthesis.votes import Same, Vote, math_same, same_option, vote
from reward_server.scoring.judge import SlowMath

if TYPE_CHECKING:
    from data_prep.synthesis.routing import Route  # it loads scikit-learn

QUESTION, SOLUTION = "question", "solution"
"""Purposes of the calls."""


@dataclass(frozen=True)
class Dropped:
    """What became no row: at which stage (`written`, `checked`, `voted`, `judged`), and why."""

    stage: str
    reason: str


@dataclass(frozen=True)
class Wording:
    """What is asked for.

    Attributes:
        prompts: the texts.
        options: of a multiple-choice question.
        difficulties: asked for in turn.
        max_characters: of a page in a prompt.
        seed: of the run.
    """

    prompts: SynthPrompts
    options: int
    difficulties: tuple[str, ...]
    max_characters: int
    seed: int

    def difficulty(self, name: str) -> str:
        """Of the question about this page or pair, whatever is asked before it."""
        return self.difficulties[_number(name) % len(self.difficulties)]


class Writer:
    """Writes questions and has them solved.

    Args:
        writing: asks the model that writes questions.
        solving: asks the model that solves them.
        slow: judges mathematical answers that text and exact numbers do not settle.
        wording: what is asked for.
        writer: settings of the calls that write.
        solver: settings of those that solve.
        votes: settings of the vote.
        limits: what the checks measure by.
    """

    def __init__(
        self,
        writing: Caller,
        solving: Caller,
        slow: SlowMath,
        wording: Wording,
        writer: CallsConfig,
        solver: CallsConfig,
        votes: VoteConfig,
        limits: Limits,
    ) -> None:
        self._writing, self._solving, self._slow = writing, solving, slow
        self._wording, self._writer, self._solver = wording, writer, solver
        self._votes, self._limits = votes, limits

    async def from_page(self, text: str, route: Route, page: Page) -> Candidate | Dropped:
        """A multiple-choice question about a page that has a subject.

        Raises:
            BudgetReached, EndpointLost, UserError: as `Caller.ask`.
        """
        assert route.subject is not None and route.subtopic is not None
        name = page.warc_record
        difficulty = self._wording.difficulty(name)
        prompt = self._wording.prompts.question_mcq
        asked = prompt.render(
            subject=route.subject.replace("_", " "),
            subtopic=route.subtopic,
            difficulty=difficulty,
            count=self._wording.options,
            passage=beginning(text, self._wording.max_characters),
        )
        schema = draft_mcq(self._wording.options)
        found = await self._writing.ask_json(self._request(QUESTION, self._writer, asked, schema, "draft_mcq"))
        if isinstance(found, Failed):
            return Dropped("written", found.reason)
        draft = mcq_draft(found.value, route.subject, route.subtopic, difficulty, name)
        if (reason := draft_reason(draft, self._limits)) is not None:
            return Dropped("checked", reason)
        shown = [shuffled_options(draft.options, draft.question, at) for at in range(self._votes.solutions)]
        solving = self._wording.prompts.solution_mcq
        texts = [solving.render(question=draft.question, options=one.lines()) for one in shown]
        solutions, models = await self._solutions(texts)
        answers = [None if one is None else order.answer(one) for one, order in zip(solutions, shown, strict=True)]
        result = self._vote(draft, solutions, answers, same_option)
        if isinstance(result, Dropped):
            return result
        return self._judged(
            Candidate(draft, result, page, _hashes(prompt, solving), _models(found.reply.model, models))
        )

    async def from_pair(self, pair: Pair) -> Candidate | Dropped:
        """A mathematical problem for a persona that needs a skill.

        Raises:
            BudgetReached, EndpointLost, UserError: as `Caller.ask`.
        """
        difficulty = self._wording.difficulty(f"{pair.persona}\n{pair.skill.name}")
        prompt, solving = self._wording.prompts.problem, self._wording.prompts.solution_math
        asked = prompt.render(persona=pair.persona, skill=pair.skill.name, area=pair.skill.area, difficulty=difficulty)
        found = await self._writing.ask_json(self._request(QUESTION, self._writer, asked, draft_math(), "draft_math"))
        if isinstance(found, Failed):
            return Dropped("written", found.reason)
        draft = math_draft(found.value, pair, difficulty)
        if (reason := draft_reason(draft, self._limits)) is not None:
            return Dropped("checked", reason)
        solutions, models = await self._solutions([solving.render(question=draft.question)] * self._votes.solutions)
        answers = [None if one is None else boxed_answer(one) for one in solutions]
        result = self._vote(draft, solutions, answers, await math_same(answers, self._slow))
        if isinstance(result, Dropped):
            return result
        candidate = Candidate(draft, result, pair, _hashes(prompt, solving), _models(found.reply.model, models))
        judged = self._judged(candidate)
        if isinstance(judged, Candidate) and (reason := await bad_gold(judged.gold, self._slow)) is not None:
            return Dropped("judged", reason)
        return judged

    def _vote(
        self, draft: Draft, solutions: Sequence[str | None], answers: Sequence[str | None], same: Same
    ) -> Vote | Dropped:
        written = [one or "" for one in solutions]
        if (reason := not_answerable(written, answers, self._votes.declined)) is not None:
            return Dropped("voted", reason)
        settings = self._votes
        found = vote(answers, draft.kind, settings.solutions, settings.threshold, settings.least_valid, same)
        return found if found.reason is None else Dropped("voted", found.reason)

    def _judged(self, candidate: Candidate) -> Candidate | Dropped:
        reason = candidate_reason(candidate, self._limits)
        return candidate if reason is None else Dropped("judged", reason)

    async def _solutions(self, prompts: Sequence[str]) -> tuple[list[str | None], str]:
        """A text for each prompt, None where the call failed for good; and the model's name."""
        requests = [
            replace(self._request(SOLUTION, self._solver, prompt), draw=draw) for draw, prompt in enumerate(prompts)
        ]
        replies = await asyncio.gather(*(self._solving.ask(request) for request in requests))
        return [None if isinstance(one, Failed) else one.text for one in replies], self._solving.model

    def _request(
        self,
        purpose: str,
        settings: CallsConfig,
        text: str,
        schema: Mapping[str, Any] | None = None,
        name: str = "reply",
    ) -> Request:
        return Request(
            purpose=purpose,
            messages=({"role": "user", "content": text},),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=self._wording.seed,
            schema=schema,
            schema_name=name,
        )


def beginning(text: str, most: int) -> str:
    """The beginning of a text, of at most so many characters, cut behind a paragraph, else behind a word."""
    if len(text) <= most:
        return text.strip()
    cut = text[:most]
    for end in ("\n", " "):
        at = cut.rfind(end)
        if at >= most // 2:
            return cut[:at].strip()
    return cut.strip()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")


def _hashes(*prompts: Prompt) -> dict[str, str]:
    return {prompt.name: prompt.hash for prompt in prompts}


def _models(writer: str, solver: str) -> dict[str, str]:
    return {QUESTION: writer, SOLUTION: solver}
