"""MATH-500: 500 problems of MATH test, the split of PRM800K. Answers are LaTeX.

500 rows, MIT, open. The gold is `answer` as it stands. Unverified: revision and file, which several public projects pin
so.
"""

from __future__ import annotations

from typing import Any

from data_prep.benchmarks.base import Benchmark, extra
from data_prep.rows import Question
from data_prep.sources.base import text


class Math500(Benchmark):
    """Rows `{problem, solution, answer, subject, level, unique_id}`."""

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`."""
        return self.build(
            "math",
            text(raw, "problem"),
            subject=text(raw, "subject", nullable=True) if "subject" in raw else "",
            extra=extra(raw, id="unique_id", level="level"),
            answers=(text(raw, "answer"),),
        )


BENCHMARK = Math500(
    name="math500",
    hf_id="HuggingFaceH4/MATH-500",
    split="test",
    revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    licence="MIT",
    domain="math",
    schema=("problem", "answer"),
    expected_rows=500,
    files=("test.jsonl",),
    categories=("subject", "level"),
    overlaps=("102 of its problems stand in AGIEval's task math, too.",),
    unverified=("revision", "files"),
)
