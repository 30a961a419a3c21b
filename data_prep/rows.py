"""The two rows of data preparation: `Question`, what a reader yields, and `PoolRow`, what a pool holds."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import unicodedata
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import pyarrow as pa

DOMAINS = ("gpr", "math")
KINDS = ("mcq", "open", "math")

# The columns of a pool's Parquet files, in order. A pool's readers may rely on every one of them.
POOL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("kind", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.struct([("label", pa.string()), ("text", pa.string())]))),
        ("ground_truth", pa.list_(pa.string())),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("prompt_tokens", pa.int32()),
        ("meta", pa.string()),
    ]
)


@dataclass(frozen=True)
class Drop:
    """A row that goes no further. Every step returns one instead of a row, so that nothing vanishes uncounted."""

    reason: str


@dataclass(frozen=True)
class Question:
    """One question of a source, before any template.

    Multiple choice states its gold as `gold_label` and, where the source gives it, `gold_text`; both are kept as the
    source wrote them (they may disagree: `filters.mcq` decides). Other kinds state it in `answers`, any of which is
    right. `row` counts from 1 in the file named `file`.
    """

    source: str
    domain: str
    kind: str
    question: str
    options: tuple[tuple[str, str], ...] | None = None
    answers: tuple[str, ...] = ()
    gold_label: str | None = None
    gold_text: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    row: int = 0

    @functools.cached_property
    def normal_question(self) -> str:
        """`question`, normalised. Kept, as several steps compare by it."""
        return normalise(self.question)

    @functools.cached_property
    def normal_options(self) -> tuple[str, ...]:
        """The option texts in order, normalised."""
        return tuple([normalise(text) for _, text in self.options or ()])

    def option_text(self, label: str | None) -> str | None:
        """The text of the option `label`, or None where there is no such option."""
        return None if label is None else dict(self.options or ()).get(label)


@dataclass(frozen=True)
class PoolRow:
    """One verifiable question, ready to be sampled. The fields are the columns of `POOL_SCHEMA`.

    Attributes:
        id: 32 hex digits, see `row_id`.
        source: name of the source, a key of the pool's manifest.
        domain: `gpr` (general-purpose reasoning) or `math`.
        kind: `mcq`, `open` or `math`: how an answer is judged.
        question: the question without its options.
        options: label to text in the order shown, or None.
        ground_truth: right answers, any of which will do. For mcq the label (`short`) or `C. text` (`long`).
        prompt: chat messages, each `{"role": ..., "content": ...}`.
        prompt_tokens: length of the rendered prompt in tokens, or None where nobody has counted.
        meta: a JSON object as text: `licence`, `subject`, `file`, `row`, and what else the source states.
    """

    id: str
    source: str
    domain: str
    kind: str
    question: str
    options: dict[str, str] | None
    ground_truth: list[str]
    prompt: list[dict[str, str]]
    prompt_tokens: int | None = None
    meta: str = "{}"

    @classmethod
    def from_arrow(cls, row: Mapping[str, Any]) -> PoolRow:
        """The row that stands in one element of `Table.to_pylist()` under `POOL_SCHEMA`."""
        options = row["options"]
        return cls(**{**row, "options": None if options is None else {o["label"]: o["text"] for o in options}})

    def to_json(self) -> str:
        """One line of JSON (options as an object), without the line feed."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> PoolRow:
        """The inverse of `to_json`."""
        return cls(**json.loads(line))


def to_record_batch(rows: Sequence[PoolRow]) -> pa.RecordBatch:
    """The rows as Arrow columns under `POOL_SCHEMA`; column by column, which is several times faster than row dicts."""
    arrays = []
    for column in POOL_SCHEMA:
        values = [getattr(row, column.name) for row in rows]
        if column.name == "options":
            labels = [label for options in values for label in options or ()]
            texts = [text for options in values if options for text in options.values()]
            arrays.append(_structs(values, (labels, texts), column.type))
        elif column.name == "prompt":
            roles = [message["role"] for prompt in values for message in prompt]
            contents = [message["content"] for prompt in values for message in prompt]
            arrays.append(_structs(values, (roles, contents), column.type))
        else:
            arrays.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(arrays, schema=POOL_SCHEMA)


def _structs(lists: Sequence[Sized | None], fields: tuple[list[str], list[str]], kind: pa.ListType) -> pa.ListArray:
    """Lists (or nulls) of structs with two text fields, whose values stand in `fields` one list after another."""
    ends = itertools.accumulate((len(one) if one else 0 for one in lists), initial=0)
    missing = pa.array([one is None for one in lists], pa.bool_()) if None in lists else None
    arrays = [pa.array(field, pa.string()) for field in fields]
    structs = pa.StructArray.from_arrays(arrays, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs, type=kind, mask=missing)


def normalise(text: str) -> str:
    """NFC, with every run of whitespace one blank. Case stays: in mathematics N and n are two things."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def row_id(question: Question) -> str:
    """The id that the question has, or would have, as a pool row: of source, kind, question and sorted option texts.

    32 hex digits of SHA-256 over the normalised texts. The labels do not enter, so a multiple-choice question whose
    options were only re-ordered has the same id.
    """
    parts = [question.source, question.kind, question.normal_question, sorted(question.normal_options)]
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]
