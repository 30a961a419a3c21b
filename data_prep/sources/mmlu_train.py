"""MMLU [Train]: cais/mmlu, auxiliary_train. Four-way multiple choice from ARC, OBQA, RACE, MCTest and others.

Unverified: the revision.
"""

from __future__ import annotations

from typing import Any

from data_prep.rows import Question
from data_prep.sources.base import BadRow, Source, text

LABELS = "ABCD"


class MmluTrain(Source):
    """Rows `{question, subject, choices, answer}`; `subject` is empty throughout auxiliary_train.

    On the hub the configuration `all` holds them so, as its split auxiliary_train; the configuration `auxiliary_train`
    wraps each one as `{train: {...}}`, which is read too.
    """

    def unwrap(self, raw: dict[str, Any]) -> dict[str, Any]:
        """See `Source.unwrap`."""
        inner = raw.get("train")
        return inner if isinstance(inner, dict) and "question" not in raw else raw

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`."""
        choices, answer = raw["choices"], raw["answer"]
        if not (isinstance(choices, list) and len(choices) == 4 and all(isinstance(c, str) for c in choices)):
            raise BadRow(f"choices is {choices!r}, expected a list of 4 texts")
        # bool is an int to Python, and no answer.
        if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer <= 3:
            raise BadRow(f"answer is {answer!r}, expected a whole number from 0 to 3")
        options = tuple((label, choice.strip()) for label, choice in zip(LABELS, choices, strict=True))
        return self.build(
            "mcq",
            text(raw, "question"),
            subject=text(raw, "subject", nullable=True),
            options=options,
            gold_label=LABELS[answer],
            gold_text=options[answer][1],
        )


SOURCE = MmluTrain(
    name="mmlu_train",
    hf_id="cais/mmlu",
    split="auxiliary_train",
    revision=None,
    licence="MIT",
    domain="gpr",
    schema=("question", "subject", "choices", "answer"),
    expected_rows=99_842,
    paper_rows=99_842,
    files=("all/auxiliary_train-*.parquet",),
    unverified=("revision",),
)
