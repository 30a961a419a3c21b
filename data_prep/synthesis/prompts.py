r"""The wording of every request to a model: text files that can be replaced by a folder of one's own (`prompts`).

The paper's prompts are unknown; these are ours. Questions are asked for as JSON (`schemas.py`); solutions are free text
that ends in \boxed{}, so that the reward's own code reads their answers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data_prep.prompt_files import cut, fill, read_prompts

PROMPTS_FOLDER = Path(__file__).parent / "prompts"
# Each prompt file and the placeholders that it must hold; no others are allowed.
PLACEHOLDERS = {
    "question_mcq": ("subject", "subtopic", "difficulty", "count", "passage"),
    "solution_mcq": ("question", "options"),
    "problem": ("persona", "skill", "area", "difficulty"),
    "solution_math": ("question",),
}


@dataclass(frozen=True)
class Prompt:
    """One prompt file.

    Attributes:
        name: its name without `.txt`, a key of PLACEHOLDERS.
        text: what stands in it.
    """

    name: str
    text: str

    @cached_property
    def hash(self) -> str:
        """12 hex digits of the text's SHA-256: which wording a row was made with."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def render(self, **values: str | int) -> str:
        """The text with every placeholder replaced, in one pass: a passage that itself holds `{subject}` keeps it.

        Raises:
            ValueError: `values` are not exactly the placeholders of this prompt.
        """
        if values.keys() != set(PLACEHOLDERS[self.name]):
            raise ValueError(f"prompt {self.name} takes {', '.join(PLACEHOLDERS[self.name])}, not {', '.join(values)}")
        names = PLACEHOLDERS[self.name]
        return fill(cut(self.text, names), {name: str(values[name]) for name in names})


@dataclass(frozen=True)
class SynthPrompts:
    """The prompts of a run, as `load_prompts` checked them."""

    question_mcq: Prompt
    solution_mcq: Prompt
    problem: Prompt
    solution_math: Prompt


def load_prompts(folder: str | Path | None, key: str = "prompts") -> SynthPrompts:
    """Read `question_mcq.txt`, `solution_mcq.txt`, `problem.txt` and `solution_math.txt` of a folder.

    Args:
        folder: where they lie; None: the built-in ones.
        key: the setting that named the folder, for messages.

    Raises:
        ConfigError: see `read_prompts`.
    """
    texts = read_prompts(PROMPTS_FOLDER if folder is None else Path(folder), PLACEHOLDERS, key)
    return SynthPrompts(**{name: Prompt(name, text) for name, text in texts.items()})
