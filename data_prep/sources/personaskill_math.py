"""PersonaSkill-MATH: the math file of nvidia/Nemotron-CrossThink.

Its card adds that models trained on the data may fall under the Qwen licence.
"""

from __future__ import annotations

from typing import Any

from data_prep.rows import Question
from data_prep.sources.base import Source, text


class PersonaSkillMath(Source):
    """Rows of the same outer schema as Syn-QA's. `meta_data` has further, undescribed keys here, which go unread."""

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`. An empty ground truth is left for `filters.math` to drop."""
        answer = text(raw, "reward_model.ground_truth", nullable=True)
        return self.build("math", text(raw, "meta_data.question"), answers=(answer,) if answer else ())


SOURCE = PersonaSkillMath(
    name="personaskill_math",
    hf_id="nvidia/Nemotron-CrossThink",
    split="train_math",
    revision="a4ce9a3b9434c5f231e2cbe30696d9a721c11d69",
    licence="CC-BY-4.0",
    domain="math",
    schema=("data_source", "prompt", "reward_model.ground_truth", "meta_data.question"),
    expected_rows=99_880,
    paper_rows=100_000,
    files=("Data/Nemotron-CrossThink-Math.jsonl|*Nemotron-CrossThink-Math_qa.jsonl",),
)
