r"""The paper's question and answer templates: a question becomes a prompt, its gold a ground truth. Pure functions.

The paper's own strings are unknown. The wording is ours, stands in the text files of `data_prep/prompts/` (one system
message, one user message for each kind of answer) and can be replaced by a folder of one's own (`prompts.folder`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import orjson

from data_prep.prompt_files import cut, fill, read_prompts
from data_prep.rows import Drop, PoolRow, Question, row_id
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
        return {name: cut(text, PLACEHOLDERS[name]) for name, text in dataclasses.asdict(self).items()}

    def user_message(self, question: Question, answer_template: str) -> str:
        """The content of the user message for `question`; `answer_template` (`long`, `short`) matters to mcq only."""
        name = f"mcq_{answer_template}" if question.kind == "mcq" else question.kind
        return fill(self._parts[name], {"question": question.question, "options": _option_lines(question)})


def load_prompts(folder: str | Path | None = None, key: str = "prompts.folder") -> Prompts:
    """Read `system.txt`, `mcq_short.txt`, `mcq_long.txt`, `open.txt` and `math.txt` of a folder.

    Args:
        folder: where they lie; None: the built-in ones.
        key: the setting that named the folder, for messages.

    Raises:
        ConfigError: see `read_prompts`.
    """
    return Prompts(**read_prompts(PROMPTS_FOLDER if folder is None else Path(folder), PLACEHOLDERS, key))


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
        id=row_id(question),
        source=question.source,
        domain=question.domain,
        kind=question.kind,
        question=question.question,
        options=None if question.options is None else dict(question.options),
        ground_truth=ground_truth(question, answer_template),
        prompt=prompt,
        meta=orjson.dumps({**question.meta, "file": question.file, "row": question.row}).decode(),
    )


def _option_lines(question: Question) -> str:
    return "\n".join([f"{label}. {text}" for label, text in question.options or ()])
