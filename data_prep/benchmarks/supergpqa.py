"""SuperGPQA: m-a-p/SuperGPQA. Evaluation data, though its split is called `train`. Up to 10 options.

26,529 rows, open. The gold is `answer_letter`; `answer` repeats that option's text. Unverified: revision and file,
which several public projects pin so; the licence, where the authors' repository (ODC-By) and a card (MIT) disagree.
"""

from __future__ import annotations

from typing import Any

from data_prep.benchmarks.base import Benchmark, extra, label_among, lettered
from data_prep.rows import Question
from data_prep.sources.base import text


class SuperGpqa(Benchmark):
    """Rows `{uuid, question, options, answer, answer_letter, discipline, field, subfield, difficulty}`."""

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`. `answer` is the right option's text."""
        options = lettered(raw["options"], "options")
        return self.build(
            "mcq",
            text(raw, "question"),
            subject=text(raw, "field", nullable=True) if "field" in raw else "",
            extra=extra(raw, id="uuid", discipline="discipline", field="field", difficulty="difficulty"),
            options=options,
            gold_label=label_among(raw["answer_letter"], options, "answer_letter"),
            gold_text=text(raw, "answer"),
        )


BENCHMARK = SuperGpqa(
    name="supergpqa",
    hf_id="m-a-p/SuperGPQA",
    split="train",
    revision="4430d4458112c7d4497fdcf94d7cc223313d6acf",
    licence="ODC-By (GitHub; a stored card says MIT)",
    domain="gpr",
    schema=("question", "options", "answer", "answer_letter"),
    expected_rows=26_529,
    files=("SuperGPQA-all.jsonl",),
    categories=("discipline", "difficulty"),
    unverified=("revision", "files", "licence"),
)
