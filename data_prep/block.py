"""One block of raw rows through every step that looks at one row: what a worker process does."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from conf.prep import FilterConfig
from crossthink.errors import UserError
from data_prep import filters, golds, templates
from data_prep.decontaminate import Index
from data_prep.dedup import exact_key, signatures
from data_prep.files import Block, rows_of
from data_prep.rows import Drop, PoolRow, Question, row_id, to_record_batch
from data_prep.sources.base import Source
from data_prep.steps import Tally, readable
from data_prep.tokens import PromptMeter

# How JSON spells them. In a block without any of these no row needs to be looked at.
_SPELLED = (b"\\u0000", b"\\ud", b"\\uD")
_UNPRINTABLE = re.compile("[\x00\ud800-\udfff]")  # what neither a hash, nor Parquet, nor a tokenizer takes


@dataclass(frozen=True)
class RowSteps:
    """The steps of one run that look at a single row. Made once in every process.

    Attributes:
        filters: the configured filters.
        question_template: mixed, open or mcq.
        answer_template: long or short.
        prompts: the wording.
        skip_bad_rows: drop and count rows that cannot be read, instead of stopping.
        index: benchmarks, or None to check none.
        meter: counts the prompt's tokens, or None to leave them uncounted.
        with_keys: compute what exact deduplication and sampling go by.
        with_signatures: compute MinHash signatures.
    """

    filters: FilterConfig
    question_template: str
    answer_template: str
    prompts: templates.Prompts
    skip_bad_rows: bool
    index: Index | None
    meter: PromptMeter | None
    with_keys: bool
    with_signatures: bool


@dataclass(frozen=True)
class Prepared:
    """What became of a block. Row i of every field belongs together.

    Attributes:
        tally: rows in, and what was dropped.
        file: Arrow IPC file with the rows under `POOL_SCHEMA`.
        keys: 16 bytes each, equal for equal questions; empty without `with_keys`.
        signatures: MinHash signatures, or None.
        golds: row number to the golds that a worker of the reward server must parse.
        contaminated: a JSON-ready object for each row that stands in a benchmark.
    """

    tally: Tally
    file: Path
    keys: list[bytes]
    signatures: np.ndarray | None
    golds: dict[int, tuple[str, ...]]
    contaminated: list[dict[str, Any]]


def prepare(steps: RowSteps, source: Source, block: Block, out: Path) -> Prepared:
    """Take a block through the steps and write what is left to `out`.

    Raises:
        UserError: a row that cannot be read, unless such rows are to be skipped.
    """
    tally = Tally()
    questions = _read(steps, source, block, tally)
    contaminated: list[dict[str, Any]] = []
    if steps.index is not None:
        questions = _decontaminate(steps.index, questions, tally, contaminated)
    kept: list[tuple[Question, PoolRow]] = []
    unsettled: dict[int, tuple[str, ...]] = {}
    for question in questions:
        formed = _form(steps, question, tally)
        if formed is None:
            continue
        row = templates.render(formed, steps.prompts, steps.answer_template)
        kept.append((formed, row))
    if steps.meter is not None:
        kept = _measure(steps.meter, kept, tally)
    if steps.filters.gold:
        kept = _check_golds(kept, unsettled, tally)
    hashes = signatures([question for question, _ in kept]) if steps.with_signatures else None
    _write(out, to_record_batch([row for _, row in kept]))
    keys = [exact_key(question) if steps.with_keys else b"" for question, _ in kept]
    return Prepared(tally, out, keys, hashes, unsettled, contaminated)


def _read(steps: RowSteps, source: Source, block: Block, tally: Tally) -> list[Question]:
    """Raw rows to questions that pass the filter."""
    questions = []
    suspect = not isinstance(block.data, bytes) or any(sign in block.data for sign in _SPELLED)
    for number, raw in rows_of(block):
        tally.rows_in += 1
        try:
            if isinstance(raw, UserError):
                raise raw
            question = source.convert(raw, block.file, number)
        except UserError as error:
            if not steps.skip_bad_rows:
                raise UserError(f"{error} bad_rows=drop counts such rows and goes on without them.") from error
            question = Drop("bad_row")
        if isinstance(question, Drop):
            shown = {"source": source.name, "file": block.file.name, "row": number, "raw": repr(raw)[:2000]}
            tally.drop("parse", question.reason, shown)
            continue
        bad = suspect and _has_bad_characters(question)
        reason = "bad_characters" if bad else filters.reason_against(question, steps.filters)
        if reason is None:
            questions.append(question)
        else:
            tally.drop("filter", reason, readable(question))
    return questions


def _has_bad_characters(question: Question) -> bool:
    texts = [question.question, *question.answers, question.gold_text or ""]
    texts += (value for value in question.meta.values() if isinstance(value, str))
    if question.options:
        texts += (text for _, text in question.options)
    return _UNPRINTABLE.search("\n".join(texts)) is not None


def _decontaminate(
    index: Index, questions: list[Question], tally: Tally, contaminated: list[dict[str, Any]]
) -> list[Question]:
    clean = []
    for question, hit in zip(questions, index.find(questions), strict=True):
        if hit is None:
            clean.append(question)
            continue
        where = {"source": question.source, "file": question.file, "row": question.row}
        # The question of a private benchmark must not be published, and a pool is.
        tally.drop("decontaminate", f"in_{hit.benchmark}", where if hit.private else readable(question))
        contaminated.append(
            {
                "id": row_id(question),
                **where,
                "benchmarks": list(hit.benchmarks),
                "item": hit.item,
                "how": hit.how,
                "span": hit.span,
            }
        )
    return clean


def _form(steps: RowSteps, question: Question, tally: Tally) -> Question | None:
    """The question in the form that the question template asks for."""
    formed = templates.question_template(question, steps.question_template)
    if isinstance(formed, Drop):
        tally.drop("template", formed.reason, readable(question))
        return None
    if formed is not question and (reason := filters.reason_against(formed, steps.filters)):
        tally.drop("filter_open", reason, readable(formed))
        return None
    return formed


def _measure(meter: PromptMeter, kept: Sequence[tuple[Question, PoolRow]], tally: Tally) -> list:
    """Fill in `prompt_tokens`, and leave out prompts over the budget."""
    measured = []
    for (question, row), tokens in zip(kept, meter.count([row.prompt for _, row in kept]), strict=True):
        if tokens > meter.max_tokens:
            tally.drop("prompt_length", "prompt_too_long", readable(question))
        else:
            measured.append((question, dataclasses.replace(row, prompt_tokens=tokens)))
    return measured


def _check_golds(
    kept: Sequence[tuple[Question, PoolRow]], unsettled: dict[int, tuple[str, ...]], tally: Tally
) -> list[tuple[Question, PoolRow]]:
    checked: list[tuple[Question, PoolRow]] = []
    for question, row in kept:
        good = golds.unsettled(question, row.ground_truth)
        if good is False:
            tally.drop("gold", "bad_gold", readable(question))
            continue
        if good is not True:
            unsettled[len(checked)] = good
        checked.append((question, row))
    return checked


def _write(out: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(out), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def sampling_rank(key: bytes, seed: int) -> bytes:
    """Where a question stands in the order in which a source is sampled: the rows of lowest rank are kept."""
    return hashlib.blake2b(key, digest_size=8, key=seed.to_bytes(8, "big")).digest()
