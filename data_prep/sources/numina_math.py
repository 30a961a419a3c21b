"""NuminaMath-1.5: competition problems with an answer column. How the paper chose its 87,350 rows is unknown.

Unverified: the revision.
"""

from __future__ import annotations

from typing import Any

from data_prep.rows import Drop, Question
from data_prep.sources.base import Source, text

SENTINELS = ("proof", "notfound")  # in the answer column: nothing to verify


class NuminaMath(Source):
    """Rows `{problem, solution, answer, problem_type, question_type, problem_is_valid, solution_is_valid, source,
    synthetic}`. NuminaMath-CoT has no `answer` and is refused by name of that field."""

    def parse(self, raw: dict[str, Any]) -> Question | Drop:
        """See `Source.parse`. Drops `answer_proof`, `answer_notfound`, `problem_not_valid`, `solution_not_valid`."""
        answer = text(raw, "answer", nullable=True)
        if answer.lower() in SENTINELS:
            return Drop(f"answer_{answer.lower()}")
        if text(raw, "problem_is_valid", nullable=True) != "Yes":
            return Drop("problem_not_valid")
        if text(raw, "solution_is_valid", nullable=True) != "Yes":
            return Drop("solution_not_valid")
        return self.build(
            "math",
            text(raw, "problem"),
            subject=text(raw, "problem_type", nullable=True),
            # `amc_aime` and `synthetic_math` in here overlap benchmarks: decontamination wants to know.
            extra={"origin": text(raw, "source", nullable=True)},
            answers=(answer,) if answer else (),
        )


SOURCE = NuminaMath(
    name="numina_math",
    hf_id="AI-MO/NuminaMath-1.5",
    split="train",
    revision=None,
    licence="Apache-2.0",
    domain="math",
    schema=("problem", "answer", "problem_type", "problem_is_valid", "solution_is_valid", "source"),
    expected_rows=896_215,
    paper_rows=87_350,
    files=("data/train-*.parquet",),
    paper_sample=87_350,
    unread=("solution", "question_type", "synthetic"),
    unverified=("revision",),
)
