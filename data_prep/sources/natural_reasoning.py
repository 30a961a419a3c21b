"""Natural Reasoning: open questions with a free-text reference answer. Not for commercial use.

Unverified: the revision and the number of rows. The file is called `full.jsonl` in the newest listing that we have seen
and `train.jsonl` in an older one; the smaller files beside it are other sets.
"""

from __future__ import annotations

from typing import Any

from data_prep.rows import Question
from data_prep.sources.base import Source, text


class NaturalReasoning(Source):
    """Rows `{question, reference_answer, responses}`; `responses` (other models' answers) may be absent and is unread.

    By the dataset's card 18% of the rows have no reference answer and half a long one: `filters.open_ended` drops both.
    About 350,000 are left, of which the paper took 100,000; how it chose them is unknown.
    """

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`."""
        answer = text(raw, "reference_answer", nullable=True)
        return self.build("open", text(raw, "question"), answers=(answer,) if answer else ())


SOURCE = NaturalReasoning(
    name="natural_reasoning",
    hf_id="facebook/natural_reasoning",
    split="train",
    revision=None,
    licence="CC-BY-NC-4.0",
    domain="gpr",
    schema=("question", "reference_answer"),
    expected_rows=1_145_824,
    paper_rows=100_000,
    files=("full.jsonl|train.jsonl",),
    paper_sample=100_000,
    unread=("responses",),
    unverified=("revision", "expected_rows"),
)
