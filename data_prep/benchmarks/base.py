"""What every benchmark has: the facts of a `Source`, its categories, whether it may be shown, and `parse`."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_prep.files import SUFFIXES, data_files
from data_prep.rows import Question
from data_prep.sources.base import BadRow, Source

LABELS = string.ascii_uppercase


@dataclass(frozen=True, kw_only=True)
class Benchmark(Source):
    """One evaluation set. A subclass adds `parse`, its module one instance called BENCHMARK.

    `parse` fills question, options and gold, so that decontamination and evaluation read the same rows. A reading
    passage is part of the question and stands in `meta["passage"]`, too: what follows it is the stem.

    Attributes:
        gated: the Hugging Face Hub gives it only to those who accepted its terms.
        private: its authors ask that no question be published. Nothing we write may quote one.
        paper_rows: 0, as nobody trains on it.
        files: as in `Source`; none where the hub has no copy in this schema, so that only local files can be read.
        suffixes: how the names of its local files may end.
        categories: what of a question's `meta` an evaluation is broken down by.
        overlaps: what is known of its questions that stand elsewhere, too; one sentence each.
    """

    what: ClassVar[str] = "benchmark"

    gated: bool = False
    private: bool = False
    paper_rows: int = 0
    files: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = SUFFIXES
    categories: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()

    def local_files(self, path: Path) -> list[Path]:
        """The files that `path`, one of what `find_benchmarks` found, stands for.

        Raises:
            UserError: it is no data file, or a folder without any.
        """
        return data_files(path)

    def groups(self, question: Question) -> dict[str, str]:
        """The named categories that the question is in; a category that its row leaves empty is absent."""
        found = {name: str(question.meta.get(name, "")) for name in self.categories}
        return {name: value for name, value in found.items() if value}

    def describe(self) -> dict[str, Any]:
        """The facts as JSON-ready values, for what an evaluation records. Those in `unverified` are hearsay."""
        facts = super().describe()
        shared = {name: facts[name] for name in ("hf_id", "split", "revision", "licence", "unverified")}
        return {
            **shared,
            "expected_rows": self.expected_rows,
            "gated": self.gated,
            "private": self.private,
            "overlaps": list(self.overlaps),
        }


def lettered(options: Any, field: str) -> tuple[tuple[str, str], ...]:
    """`["x", "y"]` as `(("A", "x"), ("B", "y"))`, texts stripped.

    Raises:
        BadRow: `options`, the value of `field`, is no list of 2 to 26 texts.
    """
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise BadRow(f"{field} is {options!r}, expected a list of texts")
    if not 2 <= len(options) <= len(LABELS):
        raise BadRow(f"{field} has {len(options)} options, expected 2 to {len(LABELS)}")
    return tuple((LABELS[at], option.strip()) for at, option in enumerate(options))


def index_among(index: Any, options: tuple[tuple[str, str], ...], field: str) -> int:
    """`index`, the value of `field`, which counts the options from 0.

    Raises:
        BadRow: it is no whole number, or there is no such option.
    """
    # bool is an int to Python, and no answer.
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(options):
        raise BadRow(f"{field} is {index!r}, expected a whole number from 0 to {len(options) - 1}")
    return index


def label_among(label: Any, options: tuple[tuple[str, str], ...], field: str) -> str:
    """`label`, the value of `field`, which names one of the options.

    Raises:
        BadRow: there is no such option.
    """
    if label not in [known for known, _ in options]:
        raise BadRow(f"{field} is {label!r}, expected a letter from A to {options[-1][0]}")
    return label


def extra(raw: dict[str, Any], **names: str) -> dict[str, Any]:
    """What the row states under other names than ours: `extra(raw, id="unique_id")`. Absent fields stay absent."""
    return {ours: raw[theirs] for ours, theirs in names.items() if raw.get(theirs) is not None}
