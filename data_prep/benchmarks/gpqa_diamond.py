"""GPQA-Diamond: Idavidrein/gpqa, the 198 hardest. Gated, and no question of it may be published."""

from __future__ import annotations

import hashlib
from typing import Any

from data_prep.benchmarks.base import LABELS, Benchmark, extra
from data_prep.rows import Question
from data_prep.sources.base import text

_ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GpqaDiamond(Benchmark):
    """Rows `{Question, Correct Answer, Incorrect Answer 1, Incorrect Answer 2, Incorrect Answer 3}`.

    The release gives no order of the options. Ours depends on the question alone, so that it is the same in every run
    and every copy of the file; `meta` keeps its seed and the order itself (positions in the list above, from 0).
    """

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
            extra={**extra(raw, id="Record ID"), "permutation_seed": seed, "permutation": order},
            options=options,
            gold_label=LABELS[order.index(0)],
            gold_text=text(raw, _ANSWERS[0]),
        )


def permutation(n: int, seed: str) -> list[int]:
    """A shuffle of 0..n-1 that depends on n and `seed` alone."""
    return sorted(range(n), key=lambda at: hashlib.sha256(f"{seed}/{at}".encode()).digest())


BENCHMARK = GpqaDiamond(
    name="gpqa_diamond",
    hf_id="Idavidrein/gpqa",
    split="gpqa_diamond",
    revision=None,
    licence="CC-BY-4.0",
    domain="gpr",
    schema=("Question", *_ANSWERS),
    expected_rows=198,
    gated=True,
    private=True,
)
