"""MATH-500: 500 problems of MATH test, the split of PRM800K. Answers are LaTeX."""

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
    revision=None,
    licence="MIT",
    domain="math",
    schema=("problem", "answer"),
    expected_rows=500,
)
