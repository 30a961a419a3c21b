"""The questions of a data set by their prompts, for a trainer that sends nothing but prompt and response.

The prompt is found as the longest known text with which a sequence begins.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crossthink.errors import UserError
from reward_server.protocols.questions import read_question
from reward_server.protocols.tokenizer import Tokenizer
from reward_server.verdicts import Item, show

PROMPTS = ("text", "prompt", "input")
"""Where a JSONL row has its prompt: a rendered string, or chat messages."""
LABELS = ("reward_item", "label", "output")
"""Where it has its `reward_item`; otherwise it has the columns `kind`, `ground_truth` and `options` themselves."""
COLUMNS = ("id", "source", "prompt", "kind", "ground_truth", "options")
BATCH = 4096
"""Rows read, rendered and tokenised at a time."""

Row = tuple[str, Any, Item]
"""Where it stands, its prompt (string or messages), its question."""


class UnknownPrompt(UserError):
    """A sequence begins with no prompt of the data set: there is nothing to judge it by."""


class GoldBook:
    """Questions by prompt.

    Attributes:
        questions: how many there are.
    """

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, Item]] = {}
        self._order: tuple[list[str], list[int]] | None = None
        self.questions = 0

    @classmethod
    def open(cls, path: Path | str, tokenizer: Tokenizer | None) -> GoldBook:
        """The questions of a pool folder (Parquet files and `manifest.json`) or of a JSONL file.

        Args:
            path: see above.
            tokenizer: renders chat messages, and gives every prompt the form in which its tokens decode again (some
                tokenizers normalise). None: prompts must be rendered already.

        Raises:
            UserError: the path holds no such data, or a row is damaged; names file, row and field. Two rows have one
                prompt and different ground truths.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder. Give a pool folder, or a JSONL file.")
        book = cls()
        rows = _pool_rows(path) if path.is_dir() else _jsonl_rows(path)
        while some := list(itertools.islice(rows, BATCH)):
            book._add_rows(some, tokenizer)
        if not book.questions:
            raise UserError(f"{path}: holds no rows. Give a pool folder, or a JSONL file.")
        return book

    def add(self, prompt: str, question: Item, where: str, *forms: str) -> None:
        """Add one question under its prompt and, where it has them, other `forms` of that prompt.

        Raises:
            UserError: the prompt is empty, or stands for another question already; names both rows.
        """
        for form in dict.fromkeys((prompt, *forms)):
            if not form:
                raise UserError(f"{where}: the prompt is empty.")
            first, known = self._rows.setdefault(form, (where, question))
            if _judged_by(known) != _judged_by(question):
                raise UserError(
                    f"{where} has the prompt of {first} and another ground truth "
                    f"({show(list(question.ground_truth))}, {show(list(known.ground_truth))}): {show(form)}. "
                    "Drop one of the two rows."
                )
        self.questions += 1
        self._order = None

    def find(self, text: str) -> tuple[str, Item]:
        """The longest known prompt with which `text` begins, and its question.

        Raises:
            UnknownPrompt: there is none.
        """
        prompts, shorter = self._index()
        at = bisect.bisect_right(prompts, text) - 1
        # Whatever known prompt begins `text` also begins its neighbour in the order, so it is among those below.
        while at >= 0 and not text.startswith(prompts[at]):
            at = shorter[at]
        if at < 0:
            raise UnknownPrompt(f"no prompt of the {self.questions} known ones begins the text {show(text[:200])}")
        return prompts[at], self._rows[prompts[at]][1]

    def _index(self) -> tuple[list[str], list[int]]:
        """The prompts in order, and for each the place of the longest other one that it begins with, or -1."""
        if self._order is None:
            prompts = sorted(self._rows)
            shorter: list[int] = []
            open_: list[int] = []
            for at, prompt in enumerate(prompts):
                while open_ and not prompt.startswith(prompts[open_[-1]]):
                    open_.pop()
                shorter.append(open_[-1] if open_ else -1)
                open_.append(at)
            self._order = prompts, shorter
        return self._order

    def _add_rows(self, rows: list[Row], tokenizer: Tokenizer | None) -> None:
        texts = [_render(where, prompt, tokenizer) for where, prompt, _ in rows]
        forms = tokenizer.round_trip(texts) if tokenizer is not None else texts
        for (where, _, question), text, form in zip(rows, texts, forms, strict=True):
            self.add(text, question, where, form)


def _judged_by(question: Item) -> tuple[Any, ...]:
    return question.kind, question.ground_truth, question.options, question.think_prefilled


def _render(where: str, prompt: Any, tokenizer: Tokenizer | None) -> str:
    if isinstance(prompt, str):
        return prompt
    if tokenizer is None:
        raise UserError(f"{where}: the prompt is a list of messages, which needs tokenizer= to be rendered.")
    try:
        return tokenizer.render(prompt)
    except Exception as error:  # a chat template is a program: it may fail in any way
        raise UserError(f"{where}: the chat template fails on this prompt ({error}).") from error


def _pool_rows(folder: Path) -> Iterator[Row]:
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{folder} is not a pool: it has no manifest.json. `crossthink prep` makes one.")
    for file in sorted(folder.glob("*.parquet")):
        try:
            table = pq.ParquetFile(file)
            lacking = [name for name in COLUMNS if name not in table.schema_arrow.names]
            if lacking:
                raise UserError(f"{file}: has no column {', '.join(lacking)}; a pool's files have.")
            for batch in table.iter_batches(BATCH, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    yield _row(f"{file}: row {row['id']}", row["prompt"], _fields(row))
        except pa.ArrowException as error:
            raise UserError(f"{file} cannot be read: {error}. Copy the pool again or make it again.") from error


def _jsonl_rows(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: is not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise UserError(f"{where}: is {show(row)}, expected a JSON object.")
            prompt = next((row[name] for name in PROMPTS if row.get(name) is not None), None)
            label = next((row[name] for name in LABELS if row.get(name) is not None), None)
            yield _row(where, prompt, _fields(row) if label is None else label)


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("kind", "ground_truth", "options", "source") if row.get(name) is not None}


def _row(where: str, prompt: Any, label: Any) -> Row:
    messages = isinstance(prompt, list) and prompt and all(isinstance(message, dict) for message in prompt)
    if not isinstance(prompt, str) and not messages:
        raise UserError(
            f"{where}: the prompt is {show(prompt)}, expected a string or chat messages under {', '.join(PROMPTS)}."
        )
    try:
        return where, prompt, read_question(label)
    except ValueError as error:
        raise UserError(
            f"{where}: {error}. Expected a reward_item under {', '.join(LABELS)}, or kind, ground_truth and options."
        ) from error
