r"""The wording of every request to a model: text files that can be replaced by a folder of one's own (`prompts`).

The paper's prompts are unknown; these are ours. Questions are asked for as JSON (`schemas.py`); solutions are free text
that ends in \boxed{}, so that the reward's own code reads their answers.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from crossthink.errors import ConfigError

PROMPTS_FOLDER = Path(__file__).parent / "prompts"
# Each prompt file and the placeholders that it must hold; no others are allowed.
PLACEHOLDERS = {
    "question_mcq": ("subject", "subtopic", "difficulty", "count", "passage"),
    "solution_mcq": ("question", "options"),
    "problem": ("persona", "skill", "area", "difficulty"),
    "solution_math": ("question",),
}
# What looks like a placeholder: braces that are no argument of a LaTeX command, as those of \boxed{} and \frac{a}{b}.
_PLACEHOLDER = re.compile(r"(?<![\\\w}])\{(\w+)\}")


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
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), self.text)


@dataclass(frozen=True)
class SynthPrompts:
    """The prompts of a run, as `load_prompts` checked them."""

    question_mcq: Prompt
    solution_mcq: Prompt
    problem: Prompt
    solution_math: Prompt


def load_prompts(folder: str | Path | None, key: str = "prompts") -> SynthPrompts:
    """Read `question_mcq.txt`, `solution_mcq.txt`, `problem.txt` and `solution_math.txt` of a folder.

    The files are UTF-8; line feeds at a file's end do not belong to its text.

    Args:
        folder: where they lie; None: the built-in ones.
        key: the setting that named the folder, for messages.

    Raises:
        ConfigError: a file is missing or not UTF-8, or lacks a placeholder, or holds an unknown one.
    """
    root = PROMPTS_FOLDER if folder is None else Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{key}={folder} is not a folder. It must hold {_file_names()}.")
    return SynthPrompts(**{name: _read(root, name) for name in PLACEHOLDERS})


def _read(root: Path, name: str) -> Prompt:
    path, needed = root / f"{name}.txt", PLACEHOLDERS[name]
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip("\n")
    except FileNotFoundError:
        raise ConfigError(f"Prompt file {path} is missing. A folder of prompts must hold {_file_names()}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Prompt file {path} cannot be read as UTF-8: {error}.") from error
    found = set(_PLACEHOLDER.findall(text))
    allowed = " and ".join(f"{{{one}}}" for one in needed)
    if unknown := sorted(found - set(needed)):
        raise ConfigError(
            f"Prompt file {path} holds {{{unknown[0]}}}, which is no placeholder there. Allowed: {allowed}."
        )
    if missing := [one for one in needed if one not in found]:
        raise ConfigError(f"Prompt file {path} lacks the placeholder {{{missing[0]}}}. Needed: {allowed}.")
    return Prompt(name, text)


def _file_names() -> str:
    return ", ".join(f"{name}.txt" for name in PLACEHOLDERS)
