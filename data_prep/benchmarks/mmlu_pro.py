"""MMLU-Pro: TIGER-Lab/MMLU-Pro, test. Multiple choice with 3 to 10 options, partly MMLU with more distractors.

12,032 rows, MIT, open. The gold is the letter in `answer`. Unverified: revision and file, which several public projects
pin so; the hub's rows were corrected more than once, so another revision may hold other golds.
"""

from __future__ import annotations

from typing import Any

from data_prep.benchmarks.base import Benchmark, extra, label_among, lettered
from data_prep.rows import Question
from data_prep.sources.base import BadRow, text

_FILLER = "N/A"  # fills short lists up to ten in some releases; the authors' scripts strip it before they ask


class MmluPro(Benchmark):
    """Rows `{question_id, question, options, answer, answer_index, category, src}`; `answer` is the letter."""

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`."""
        options = lettered(raw["options"], "options")
        while options and options[-1][1] == _FILLER:  # from the end only, so that no letter moves
            options = options[:-1]
        if not options:
            raise BadRow(f"options are {_FILLER} throughout")
        label = label_among(raw["answer"], options, "answer")
        return self.build(
            "mcq",
            text(raw, "question"),
            subject=text(raw, "category", nullable=True) if "category" in raw else "",
            extra=extra(raw, id="question_id", src="src", category="category"),
            options=options,
            gold_label=label,
            gold_text=dict(options)[label],
        )


BENCHMARK = MmluPro(
    name="mmlu_pro",
    hf_id="TIGER-Lab/MMLU-Pro",
    split="test",
    revision="b189ec765aa7ed75c8acfea42df31fdae71f97be",
    licence="MIT",
    domain="gpr",
    schema=("question", "options", "answer"),
    expected_rows=12_032,
    files=("data/test-*.parquet",),
    categories=("category",),
    overlaps=("Partly built from MMLU's questions.",),
    unverified=("revision", "files"),
)
