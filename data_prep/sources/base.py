"""What every source has: facts, a schema, and `parse`, which turns one raw row into a `Question`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

from crossthink.errors import UserError
from data_prep.files import read_rows
from data_prep.rows import Drop, Question

# SPDX names from the most to the least permissive, the order in which `strictest_licence` compares. The paper's sources
# are under four of them; the others are common among datasets.
LICENCES = (
    "CC0-1.0",
    "MIT",
    "Apache-2.0",
    "ODC-By-1.0",
    "CC-BY-4.0",
    "CC-BY-SA-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
)
NON_COMMERCIAL = frozenset({"CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"})


class BadRow(ValueError):
    """A field holds what its source never holds. `Source.convert` adds file and line."""


@dataclass(frozen=True)
class Source:
    """One public dataset. A subclass adds `parse`, its module one instance called SOURCE.

    Attributes:
        name: what `sources=[...]`, blends and pool rows call it.
        hf_id: dataset repository on the Hugging Face Hub.
        split: split or configuration there.
        revision: commit that the facts were taken at, or None: the newest is taken, and recorded in the manifest.
        licence: SPDX name, one of LICENCES.
        domain: `gpr` or `math` (paper, Table 1).
        schema: fields that a row must have. `a|b`: one of them. `a.b`: b inside a.
        expected_rows: rows of the public split, or None where nobody has counted.
        paper_rows: rows that the paper took (Table 1), or None: it is none of the paper's. For four sources the public
            split holds another number.
        files: the data files in the repository, as glob patterns (`*` also matches `/`). Every one must match; `a|b`:
            the first of them that does.
        paper_sample: rows that the paper drew from those that passed its filter, or None: it took all. How it drew is
            unknown; ours is `sources.NAME.sample`, by the seed.
        paper_levels: difficulty levels that the paper took; empty where the source has none.
        unread: top-level fields that `parse` never looks at. A reader of Parquet need not decode them.
        unverified: names of the facts above that no one has checked against the repository itself.
    """

    what: ClassVar[str] = "source"

    name: str
    hf_id: str
    split: str
    revision: str | None
    licence: str
    domain: str
    schema: tuple[str, ...]
    expected_rows: int | None
    paper_rows: int | None
    files: tuple[str, ...] = ()
    paper_sample: int | None = None
    paper_levels: tuple[int, ...] = ()
    unread: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    def parse(self, raw: dict[str, Any]) -> Question | Drop:
        """One raw row, which has every field of `schema`, as a question; or why it is none.

        Raises:
            BadRow: a field has the wrong type or an impossible value.
        """
        raise NotImplementedError

    def unwrap(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The row itself, where a source wraps it in another; `schema` and `parse` see only what is inside."""
        return raw

    def build(self, kind: str, question: str, subject: str = "", extra: dict | None = None, **gold: Any) -> Question:
        """A `Question` with this source's name, domain and licence filled in; `extra` joins its meta."""
        meta = {"licence": self.licence, "subject": subject}
        if extra:
            meta |= extra
        return Question(self.name, self.domain, kind, question.strip(), meta=meta, **gold)

    def convert(self, raw: dict[str, Any], file: Path, number: int) -> Question | Drop:
        """Row `number` (from 1) of `file` as a question that knows where it is from; or why it is none.

        Raises:
            UserError: a field is missing or holds what it never holds; the message names file, line and field.
        """
        raw = self.unwrap(raw)
        for name, alternatives in self._needed:
            if not _has_one(raw, alternatives):
                raise UserError(
                    f"{file}, line {number}: no field '{name}', which {self.what} {self.name} needs. "
                    f"The row has {', '.join(raw) or 'no fields'}; needed are {', '.join(self.schema)}."
                )
        try:
            question = self.parse(raw)
        except BadRow as error:
            raise UserError(f"{file}, line {number}: {error} ({self.what} {self.name}).") from error
        if isinstance(question, Drop):
            return question
        if not question.question:
            return Drop("question_empty")
        # In place, as nobody else has seen it yet: dataclasses.replace is half of the time of a row.
        object.__setattr__(question, "file", file.name)
        object.__setattr__(question, "row", number)
        return question

    def read(self, path: Path | str | Sequence[Path], limit: int | None = None) -> Iterator[Question | Drop]:
        """Every row at `path` (a file, a folder or several; at most `limit` rows) in order, as `convert` gives it.

        Raises:
            UserError: a file or row that cannot be read; the message names file, line and field.
        """
        paths = [path] if isinstance(path, (str, Path)) else path
        for file, number, raw in islice(chain.from_iterable(map(read_rows, paths)), limit):
            yield self.convert(raw, file, number)

    def describe(self) -> dict[str, Any]:
        """The facts as JSON-ready values, for a manifest or a data card. Those in `unverified` are hearsay."""
        return {
            "hf_id": self.hf_id,
            "split": self.split,
            "revision": self.revision,
            "files": list(self.files),
            "licence": self.licence,
            "rows": self.expected_rows,
            "paper_rows": self.paper_rows,
            "paper_sample": self.paper_sample,
            "paper_levels": list(self.paper_levels),
            "unverified": list(self.unverified),
        }

    @cached_property
    def _needed(self) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
        """`schema` taken apart once: name, and the path of each alternative."""
        return tuple((name, tuple(tuple(path.split(".")) for path in name.split("|"))) for name in self.schema)


def text(raw: dict[str, Any], name: str, nullable: bool = False) -> str:
    """The text in field `name` (`a.b`: b inside a), stripped. A null is the empty string where `nullable`.

    Raises:
        BadRow: the field holds something else.
    """
    value: Any = raw
    for part in name.split("."):
        value = value[part]
    if value is None and nullable:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{name} is {value!r}, expected text")
    return value.strip()


def strictest_licence(licences: Collection[str]) -> str:
    """The one of `licences` (at least one) that binds a pool made of all of them.

    Raises:
        UserError: one of them is not in LICENCES.
    """
    return max(licences, key=_strictness)


def allows_commercial(licence: str) -> bool:
    """Whether `licence` lets its data be used commercially: what `licence=commercial` asks of a source.

    Raises:
        UserError: it is not in LICENCES. Nothing is assumed of a licence that nobody has read.
    """
    _strictness(licence)
    return licence not in NON_COMMERCIAL


def _strictness(licence: str) -> int:
    if licence not in LICENCES:
        raise UserError(
            f"licence '{licence}' is not known. Known, from the most permissive: {', '.join(LICENCES)}. A source under "
            "another one needs a line in LICENCES (data_prep/sources/base.py)."
        )
    return LICENCES.index(licence)


def _has_one(raw: dict[str, Any], paths: tuple[tuple[str, ...], ...]) -> bool:
    for path in paths:
        inner: Any = raw
        for part in path:
            if not isinstance(inner, dict) or part not in inner:
                break
            inner = inner[part]
        else:
            return True
    return False
