"""GPQA-Diamond: Idavidrein/gpqa, the 198 hardest. Gated, and no question of it may be published.

198 rows, CC-BY-4.0. The hub holds a CSV file, so this benchmark is read from CSV, too. The gold is wherever the right
answer comes to stand among the shuffled options. Unverified: revision and file, which several public projects pin so.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crossthink.errors import UserError
from data_prep.benchmarks.base import LABELS, Benchmark, extra
from data_prep.files import SUFFIXES, data_files
from data_prep.rows import Drop, Question
from data_prep.sources.base import text

_CSV = ".csv"

_ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GpqaDiamond(Benchmark):
    """Rows `{Question, Correct Answer, Incorrect Answer 1, Incorrect Answer 2, Incorrect Answer 3}`.

    The release gives no order of the options. Ours depends on the question alone, so that it is the same in every run
    and every copy of the file; `meta` keeps its seed and the order itself (positions in the list above, from 0).
    """

    def local_files(self, path: Path) -> list[Path]:
        """See `Benchmark.local_files`; a CSV file will do, too, alone or in a folder."""
        if path.is_file() and path.suffix == _CSV:
            return [path]
        return (sorted(path.glob(f"*{_CSV}")) if path.is_dir() else []) or data_files(path)

    def read(self, path: Path | str | Sequence[Path], limit: int | None = None) -> Iterator[Question | Drop]:
        """See `Source.read`; a CSV file's rows count from 1 behind its header."""
        paths = [Path(path)] if isinstance(path, (str, Path)) else path
        for file in itertools.chain.from_iterable(map(self.local_files, paths)):
            if file.suffix != _CSV:
                found = super().read(file, limit)
            else:
                numbered = enumerate(itertools.islice(_csv_rows(file), limit), start=1)
                found = (self.convert(raw, file, number) for number, raw in numbered)
            for question in found:
                yield question
                limit = None if limit is None else limit - 1

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`."""
        question = text(raw, "Question")
        seed = hashlib.sha256(question.encode()).hexdigest()[:16]
        order = permutation(len(_ANSWERS), seed)
        options = tuple((label, text(raw, _ANSWERS[at])) for label, at in zip(LABELS, order, strict=False))
        return self.build(
            "mcq",
            question,
            subject=text(raw, "Subdomain", nullable=True) if "Subdomain" in raw else "",
            extra={
                **extra(raw, id="Record ID", domain="High-level domain"),
                "permutation_seed": seed,
                "permutation": order,
            },
            options=options,
            gold_label=LABELS[order.index(0)],
            gold_text=text(raw, _ANSWERS[0]),
        )


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file by the names in its header.

    Raises:
        UserError: it is not CSV in UTF-8.
    """
    line = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, restkey="(more)", strict=True)
            for row in reader:
                line = reader.line_num
                yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file}, after line {line}: damaged CSV data ({error}).") from error


def permutation(n: int, seed: str) -> list[int]:
    """A shuffle of 0..n-1 that depends on n and `seed` alone."""
    return sorted(range(n), key=lambda at: hashlib.sha256(f"{seed}/{at}".encode()).digest())


BENCHMARK = GpqaDiamond(
    name="gpqa_diamond",
    hf_id="Idavidrein/gpqa",
    split="gpqa_diamond",
    revision="633f5ee89ab8ad4522a9f850766b73f62147ffdd",
    licence="CC-BY-4.0",
    domain="gpr",
    schema=("Question", *_ANSWERS),
    expected_rows=198,
    files=(f"gpqa_diamond{_CSV}",),
    suffixes=(*SUFFIXES, _CSV),
    categories=("domain", "subject"),
    unverified=("revision", "files"),
    gated=True,
    private=True,
)
