r"""How a question becomes a prompt, and its gold a ground truth (paper, section 3.1). Pure functions of text.

The paper's own strings are unknown. The wording is ours, stands in the text files of `data_prep/prompts/` (one system
message, one user message for each kind of answer) and can be replaced by a folder of one's own (`prompts.folder`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import orjson

from crossthink.errors import ConfigError
from data_prep.rows import Drop, PoolRow, Question, normal_row_id
from data_prep.stems import needs_options

TEMPLATE_VERSION = 2  # rises with every change of rendered text or of a rule in stems.py; goes into the manifest

QUESTION_TEMPLATES = ("mixed", "open", "mcq")
ANSWER_TEMPLATES = ("long", "short")
PROMPTS_FOLDER = Path(__file__).parent / "prompts"
# Each prompt file and the placeholders that it must hold; no others are allowed.
PLACEHOLDERS = {
    "system": (),
    "mcq_short": ("question", "options"),
    "mcq_long": ("question", "options"),
    "open": ("question",),
    "math": ("question",),
}
_PLACEHOLDER = re.compile(r"\{(question|options)\}")
# What looks like a placeholder: braces that are no argument of a LaTeX command, as those of \boxed{} and \frac{a}{b}.
_ANY_PLACEHOLDER = re.compile(r"(?<![\\\w}])\{(\w+)\}")


@dataclass(frozen=True)
class Prompts:
    r"""The wording around a question: the texts of the five prompt files, as `load_prompts` checked them.

    `{question}` and `{options}` (lines `A. text`) are replaced in one pass, so a question that itself holds `{options}`
    stays as it is, and literal braces such as `\boxed{}` need no escaping. An empty `system` sends no system message.
    """

    system: str
    mcq_short: str
    mcq_long: str
    open: str
    math: str

    def describe(self) -> dict[str, dict[str, str]]:
        """Name to `{"sha256": of the text in UTF-8, "text": ...}`, for the manifest."""
        return {
            name: {"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
            for name, text in dataclasses.asdict(self).items()
        }

    @cached_property
    def _parts(self) -> Mapping[str, list[str]]:
        """Each user message cut at its placeholders: literal, name, literal, name, ..., literal."""
        return {name: _PLACEHOLDER.split(text) for name, text in dataclasses.asdict(self).items()}

    def user_message(self, question: Question, answer_template: str) -> str:
        """The content of the user message for `question`; `answer_template` (`long`, `short`) matters to mcq only."""
        name = f"mcq_{answer_template}" if question.kind == "mcq" else question.kind
        parts = self._parts[name].copy()
        for at in range(1, len(parts), 2):
            parts[at] = question.question if parts[at] == "question" else _option_lines(question)
        return "".join(parts)


def load_prompts(folder: str | Path | None = None, key: str = "prompts.folder") -> Prompts:
    """Read `system.txt`, `mcq_short.txt`, `mcq_long.txt`, `open.txt` and `math.txt` of a folder.

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
    return Prompts(**{name: _read_prompt(root / f"{name}.txt", needed) for name, needed in PLACEHOLDERS.items()})


def question_template(question: Question, template: str) -> Question | Drop:
    """Apply the question template to a question that has passed the filters.

    Args:
        question: of any kind; of kind mcq with its gold among the options (`filters.mcq`).
        template: `mixed` changes nothing. `mcq` (T_MCQ) keeps only questions that have options. `open` (T_Open) takes
            the options from a multiple-choice question: the right option's text becomes the answer, the kind `open`.

    Returns:
        The question, or why it is dropped: `no_options` under `mcq`; under `open` the reasons of
        `stems.needs_options`. The answer of an opened question has yet to pass the filter for open answers.

    Raises:
        ValueError: `template` is none of QUESTION_TEMPLATES.
    """
    if template not in QUESTION_TEMPLATES:
        raise ValueError(f"question template {template!r}; allowed: {', '.join(QUESTION_TEMPLATES)}")
    if template == "mcq" and question.kind != "mcq":
        return Drop("no_options")
    if template != "open" or question.kind != "mcq":
        return question
    reason = needs_options(question)
    if reason is not None:
        return Drop(reason)
    answer = question.option_text(question.gold_label)
    return dataclasses.replace(
        question, kind="open", options=None, answers=(answer,) if answer else (), gold_label=None, gold_text=None
    )


def ground_truth(question: Question, answer_template: str) -> list[str]:
    """What an answer is compared with: for mcq `C` (`short`) or `C. text` (`long`), else the answers as they are."""
    if question.kind != "mcq":
        return list(question.answers)
    label = question.gold_label
    assert label is not None, "a multiple-choice question reached its ground truth without a gold label"
    return [label] if answer_template == "short" else [f"{label}. {question.option_text(label)}"]


def render(question: Question, prompts: Prompts, answer_template: str) -> PoolRow:
    """The finished pool row of a question that has passed every step.

    Args:
        question: what the row says.
        prompts: the wording around it.
        answer_template: `long` or `short`, see `ground_truth`.
    """
    prompt = [{"role": "user", "content": prompts.user_message(question, answer_template)}]
    if prompts.system:
        prompt.insert(0, {"role": "system", "content": prompts.system})
    return PoolRow(
        id=question_id(question),
        source=question.source,
        domain=question.domain,
        kind=question.kind,
        question=question.question,
        options=None if question.options is None else dict(question.options),
        ground_truth=ground_truth(question, answer_template),
        prompt=prompt,
        meta=orjson.dumps({**question.meta, "file": question.file, "row": question.row}).decode(),
    )


def question_id(question: Question) -> str:
    """The id that the question has, or would have, as a pool row."""
    return normal_row_id(question.source, question.kind, question.normal_question, question.normal_options)


def _option_lines(question: Question) -> str:
    return "\n".join([f"{label}. {text}" for label, text in question.options or ()])


def _read_prompt(path: Path, needed: tuple[str, ...]) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip("\n")
    except FileNotFoundError:
        raise ConfigError(f"Prompt file {path} is missing. A folder of prompts must hold {_file_names()}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Prompt file {path} cannot be read as UTF-8: {error}.") from error
    known = set(_PLACEHOLDER.findall(text))
    unknown = sorted((known | set(_ANY_PLACEHOLDER.findall(text))) - set(needed))
    allowed = " and ".join(f"{{{name}}}" for name in needed) or "none"
    if unknown:
        raise ConfigError(
            f"Prompt file {path} holds {{{unknown[0]}}}, which is no placeholder there. Allowed: {allowed}."
        )
    missing = [name for name in needed if name not in known]
    if missing:
        raise ConfigError(f"Prompt file {path} lacks the placeholder {{{missing[0]}}}. Needed: {allowed}.")
    return text


def _file_names() -> str:
    return ", ".join(f"{name}.txt" for name in PLACEHOLDERS)
