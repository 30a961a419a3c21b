"""MMLU: cais/mmlu, test. Four-way multiple choice in 57 subjects.

14,042 rows, MIT, open. The gold is the choice that `answer` counts to. Unverified: revision and file, which several
public projects pin so.
"""

from __future__ import annotations

from typing import Any

from data_prep.benchmarks.base import LABELS, Benchmark, index_among, lettered
from data_prep.rows import Question
from data_prep.sources.base import text


class MmluTest(Benchmark):
    """Rows `{question, subject, choices, answer}`; `answer` counts the choices from 0."""

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`."""
        options = lettered(raw["choices"], "choices")
        answer = index_among(raw["answer"], options, "answer")
        return self.build(
            "mcq",
            text(raw, "question"),
            subject=text(raw, "subject", nullable=True) if "subject" in raw else "",
            options=options,
            gold_label=LABELS[answer],
            gold_text=options[answer][1],
        )


BENCHMARK = MmluTest(
    name="mmlu_test",
    hf_id="cais/mmlu",
    split="test",
    revision="c30699e8356da336a370243923dbaf21066bb9fe",
    licence="MIT",
    domain="gpr",
    schema=("question", "choices", "answer"),
    expected_rows=14_042,
    files=("all/test-*.parquet",),
    categories=("subject",),
    overlaps=("MMLU-Pro is partly built from its questions.",),
    unverified=("revision", "files"),
)
