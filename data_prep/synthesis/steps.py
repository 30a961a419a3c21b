"""The datatrove steps around the calls: pairs, subjects, and the step that writes questions and has them solved."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.typeshelper import StatHints

from conf.synth import CallsConfig, SynthConfig
from crossthink.endpoint import Access, Endpoint
from crossthink.errors import UserError
from data_prep.synthesis.calls.budget import Budget, BudgetReached, Prices, total
from data_prep.synthesis.calls.caller import Caller
from data_prep.synthesis.calls.store import AnswerStore
from data_prep.synthesis.checks import Limits
from data_prep.synthesis.in_order import in_order
from data_prep.synthesis.items import Candidate, Page, personaskill_row, syn_qa_row
from data_prep.synthesis.personas import Pair, Skill, draw_pairs, load_personas, load_skills
from data_prep.synthesis.prompts import load_prompts
from data_prep.synthesis.subjects import load_subjects
from data_prep.synthesis.writing import QUESTION, SOLUTION, Dropped, Wording, Writer

ROUTE_BATCH = 64
PROGRESS_S = 10.0
GRADERS, GRADER_DEADLINE_S = 1, 10.0
"""Processes that judge mathematical answers, and CPU seconds for one pair of them."""


class Pairs(PipelineStep):
    """Reads no file: gives this task's share of the pairs of persona and skill."""

    type, name = "📖 - READER", "Personas × skills"

    def __init__(self, config: SynthConfig) -> None:
        super().__init__()
        self.config = config

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """See `PipelineStep.run`."""
        yield from data or ()
        config = self.config
        personas, skills = load_personas(config.personas), load_skills(config.skills)
        for number, pair in enumerate(draw_pairs(personas, skills, config.problems, config.seed)):
            if number % world_size == rank:
                self.stat_update(StatHints.total, StatHints.forwarded)
                found = {"persona": pair.persona, "skill": pair.skill.name, "area": pair.skill.area}
                yield Document(pair.persona, f"pair-{number:08d}", metadata=found)


class Subject(BaseFilter):
    """Gives pages their subject; drops those that have none (`no_subject`).

    Args:
        config: of the run.
        answers: folder of stored vectors, one file for each task; only an embedding model's are stored.
    """

    name = "Subject"

    def __init__(self, config: SynthConfig, answers: Path) -> None:
        super().__init__(batch_size=ROUTE_BATCH)
        self.config, self.answers = config, answers
        self._router: Any = None

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """See `BaseFilter.run`."""
        # It is not sent to a job, but made there.
        self._router = _router(self.config, self.answers / f"subjects-{rank:05d}.sqlite")
        try:
            yield from super().run(data, rank, world_size)
        except UserError as error:
            raise Stopped(str(error), error.exit_code) from error

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """See `BaseFilter.filter`."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        """See `BaseFilter.filter_batch`."""
        found: list[bool | tuple[bool, str]] = []
        for document, route in zip(batch, self._router.route([one.text for one in batch]), strict=True):
            document.metadata["route"] = vars(route)
            found.append(True if route.reason is None else (False, route.reason))
        return found


class Write(PipelineStep):
    """Writes a question about every document, has it solved and voted on, and gives the rows of what is kept.

    Args:
        config: of the run.
        answers: folder of the stores of answers, one for each task.
    """

    type, name = "✍ - WRITER", "Questions and votes"

    def __init__(self, config: SynthConfig, answers: Path) -> None:
        super().__init__()
        self.config, self.answers = config, answers

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """See `PipelineStep.run`."""
        loop = asyncio.new_event_loop()
        try:
            yield from self._run(loop, data, rank, world_size)
        except BudgetReached:
            raise
        except UserError as error:
            raise Stopped(str(error), error.exit_code) from error
        finally:
            loop.close()

    def _run(
        self, loop: asyncio.AbstractEventLoop, data: DocumentsPipeline, rank: int, world_size: int
    ) -> Iterator[Document]:
        with AnswerStore(self.answers / f"{rank:05d}.sqlite") as store:
            work = Work(self.config, store, world_size)
            loop.run_until_complete(work.__aenter__())
            error: BaseException | None = None
            progress = Progress(f"task {rank}", work)
            try:
                for document, found in in_order(loop, data, work.write, self.config.documents):
                    self.stat_update(StatHints.total)
                    if isinstance(found, Dropped):
                        self.stat_update(StatHints.dropped, f"{StatHints.dropped}_{found.stage}_{found.reason}")
                    else:
                        self.stat_update(StatHints.forwarded)
                        yield Document(found["meta_data"]["question"], document.id, metadata={"row": found})
                    progress.more(kept=isinstance(found, dict))
                progress.say()
            except BaseException as raised:
                error = raised
                raise
            finally:
                loop.run_until_complete(work.__aexit__(type(error), error, None))
                self._count(work)

    def _count(self, work: Work) -> None:
        for purpose, caller in work.callers.items():
            for key, value in caller.counters.facts().items():
                if isinstance(value, int | float):
                    self.stat_update(f"{purpose}_{key}", value=value, unit="task")
                elif isinstance(value, dict):
                    for reason, count in value.items():
                        self.stat_update(f"{purpose}_{key}_{reason}", value=count, unit="task")


class Work:
    """What a task works with: models, graders, prompts; an async context."""

    def __init__(self, config: SynthConfig, store: AnswerStore, world_size: int) -> None:
        self._config = config
        self._exit = contextlib.AsyncExitStack()
        spent = store.spent()
        self.callers = {
            purpose: _caller(calls, group, purpose, store, spent, world_size, config.retry_failed)
            for purpose, group, calls in ((QUESTION, "writer", config.writer), (SOLUTION, "solver", config.solver))
        }
        self._writer: Writer | None = None

    async def __aenter__(self) -> Work:
        from reward_server.pool import WorkerPool

        config = self._config
        for caller in self.callers.values():
            await self._exit.enter_async_context(caller)
        slow = await self._exit.enter_async_context(WorkerPool(GRADERS, GRADER_DEADLINE_S, warm_up=False))
        wording = Wording(
            load_prompts(config.prompts),
            config.options,
            tuple(config.difficulties),
            config.pages.max_characters,
            config.seed,
        )
        limits = Limits(config.options, **vars(config.checks))
        writing, solving = self.callers.values()
        self._writer = Writer(writing, solving, slow, wording, config.writer, config.solver, config.vote, limits)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._exit.__aexit__(*exception)

    async def write(self, document: Document) -> dict[str, Any] | Dropped:
        """The row that a document comes to, or why there is none."""
        assert self._writer is not None
        facts = document.metadata
        if "persona" in facts:
            found = await self._writer.from_pair(Pair(facts["persona"], Skill(facts["skill"], facts["area"])))
            return personaskill_row(found) if isinstance(found, Candidate) else found
        from data_prep.synthesis.routing import Route  # loads scikit-learn, which problems do without

        page = Page(facts["url"], document.id, facts["crawl_file"])
        found = await self._writer.from_page(document.text, Route(**facts["route"]), page)
        return syn_qa_row(found) if isinstance(found, Candidate) else found


@dataclass
class Progress:
    """A line on the terminal every few seconds, and one at the end."""

    name: str
    work: Work
    done: int = 0
    kept: int = 0
    _said: float = 0.0

    def more(self, kept: bool) -> None:
        """One document is finished."""
        self.done += 1
        self.kept += kept
        if time.monotonic() - self._said >= PROGRESS_S:
            self.say()

    def say(self) -> None:
        """How far it is."""
        self._said = time.monotonic()
        counters = [caller.counters for caller in self.work.callers.values()]
        calls, stored = sum(one.calls for one in counters), sum(one.from_store for one in counters)
        said = f"{self.done} documents, {self.kept} kept, {calls} calls, {stored} answers from the store"
        print(f"synth: {self.name}: {said}", flush=True)  # stderr is datatrove's


class Stopped(UserError):
    """A task ended, resumable or not; it crosses processes, which an error with more arguments would not."""

    def __init__(self, said: str, exit_code: int) -> None:
        super().__init__(said)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.exit_code)


def _caller(
    calls: CallsConfig, group: str, purpose: str, store: AnswerStore, spent: Any, tasks: int, retry_failed: bool
) -> Caller:
    assert calls.endpoint is not None
    access = Access(
        calls.endpoint, calls.model, calls.token, calls.deadline_s, calls.retries, f"{group}.endpoint", group
    )
    limits = calls.budget
    budget = Budget(
        None if limits.tokens is None else limits.tokens // tasks,
        None if limits.cost is None else limits.cost / tasks,
        Prices(limits.price_prompt, limits.price_completion),
        total([spent[purpose]] if purpose in spent else []),
        f"{group}.budget",
        tasks,
    )
    return Caller(
        Endpoint(access),
        store,
        budget,
        concurrency=calls.concurrency,
        json_mode=calls.json,  # type: ignore[arg-type]  # one of JSON_MODES, as has been checked
        json_tries=calls.json_tries,
        late_in_a_row=calls.late_in_a_row,
        retry_failed=retry_failed,
    )


def _router(config: SynthConfig, answers: Path) -> Any:
    from data_prep.synthesis.routing import EmbeddingRouter, LexicalRouter

    subjects = load_subjects(config.subjects.file, "subjects.file")
    if config.subjects.router == "lexical":
        return LexicalRouter(subjects, config.subjects.least_score)
    from data_prep.synthesis.embeddings import Embedder

    return EmbeddingRouter(subjects, config.subjects.least_score, Embedder(config.embeddings, answers))
