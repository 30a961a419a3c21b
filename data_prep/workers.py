"""Worker processes that take blocks through the row steps, with results in the order of the blocks."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from conf.prep import FilterConfig
from crossthink.errors import UserError
from crossthink.procs import die_with_parent
from data_prep.block import Prepared, RowSteps, prepare
from data_prep.decontaminate import Index
from data_prep.files import Block
from data_prep.sources.base import Source
from data_prep.templates import load_prompts
from data_prep.tokens import PromptMeter

AHEAD = 2  # blocks that wait for each worker: enough to keep it busy, few enough to stay small


@dataclass(frozen=True)
class Job:
    """What every process needs to build its `RowSteps`; small, and the same for all.

    Attributes:
        filters: the configured filters.
        question_template: mixed, open or mcq.
        answer_template: long or short.
        prompts: folder of the prompts, or None for the built-in ones.
        skip_bad_rows: see `RowSteps`.
        index: file of the benchmarks' index, or None.
        tokenizer: what measures prompts, or None.
        max_prompt_tokens: the prompt budget.
        with_keys: see `RowSteps`.
        with_signatures: see `RowSteps`.
    """

    filters: FilterConfig
    question_template: str
    answer_template: str
    prompts: str | None
    skip_bad_rows: bool
    index: Path | None
    tokenizer: str | None
    max_prompt_tokens: int
    with_keys: bool
    with_signatures: bool

    def steps(self) -> RowSteps:
        """The row steps of this process."""
        return RowSteps(
            filters=self.filters,
            question_template=self.question_template,
            answer_template=self.answer_template,
            prompts=load_prompts(self.prompts),
            skip_bad_rows=self.skip_bad_rows,
            index=None if self.index is None else Index.load(self.index),
            meter=None if self.tokenizer is None else PromptMeter(self.tokenizer, self.max_prompt_tokens),
            with_keys=self.with_keys,
            with_signatures=self.with_signatures,
        )


class Workers:
    """`with Workers(n, job) as workers`: prepares blocks in `n` processes; with one, in this process.

    Processes start with the first source that has more than one block, and die with this process.
    """

    def __init__(self, count: int, job: Job) -> None:
        self._count = count
        self._job = job
        self._executor: ProcessPoolExecutor | None = None
        self._steps: RowSteps | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def prepare(self, source: Source, blocks: Iterator[Block], scratch: Path) -> Iterator[Prepared]:
        """Every block's result, in order; the rows are written to files in `scratch`.

        Raises:
            UserError: a row that cannot be read, or a worker process that was killed.
        """
        numbered = enumerate(blocks)
        first = next(numbered, None)
        if first is None:
            return
        second = next(numbered, None) if self._count > 1 else None
        if second is None:
            yield self._here(source, first[1], _file(scratch, first[0]))
            for number, block in numbered:
                yield self._here(source, block, _file(scratch, number))
            return
        waiting: deque[Future[Prepared]] = deque()
        try:
            for number, block in _chain(first, second, numbered):
                if len(waiting) >= AHEAD * self._count:
                    yield waiting.popleft().result()
                waiting.append(self._submit(source, block, _file(scratch, number)))
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"A worker process ended while it prepared {source.name} (killed, or out of memory). Run the same "
                "command again; with fewer workers= it needs less memory."
            ) from error
        finally:
            for future in waiting:
                future.cancel()

    def _here(self, source: Source, block: Block, out: Path) -> Prepared:
        if self._steps is None:
            self._steps = self._job.steps()
        return prepare(self._steps, source, block, out)

    def _submit(self, source: Source, block: Block, out: Path) -> Future[Prepared]:
        if self._executor is None:
            # Not forked: a fork would copy the threads' locks of Arrow in whatever state they are.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._count, context, _start, (os.getpid(), self._job))
        return self._executor.submit(_work, source, block, out)


_steps: RowSteps | None = None  # of this worker process


def _start(parent: int, job: Job) -> None:
    global _steps
    die_with_parent(parent)
    _steps = job.steps()


def _work(source: Source, block: Block, out: Path) -> Prepared:
    assert _steps is not None
    return prepare(_steps, source, block, out)


def _chain(*parts: tuple[int, Block] | Iterator[tuple[int, Block]]) -> Iterator[tuple[int, Block]]:
    for part in parts:
        if isinstance(part, tuple):
            yield part
        else:
            yield from part


def _file(scratch: Path, number: int) -> Path:
    return scratch / f"{number:06d}.arrow"
