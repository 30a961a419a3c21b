"""AGIEval v1: 21 exams, English and Chinese, most of them multiple choice, some about a passage."""

from __future__ import annotations

import re
from typing import Any

from data_prep.benchmarks.base import LABELS, Benchmark, lettered
from data_prep.rows import Question
from data_prep.sources.base import BadRow, text


class AgiEval(Benchmark):
    """Rows `{passage, question, options, label, answer, other}`, the lines of data/v1/TASK.jsonl.

    Options are `(A)text`; `label` is a letter, or a list of them where several are right (all of jec-qa, some of
    gaokao-physics). gaokao-mathcloze and math are open: options and label null, the gold in `answer`, a key that sat-*
    rows do not have. The task is the name of the file.
    """

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`."""
        passage, stem = text(raw, "passage", nullable=True), text(raw, "question")
        question = f"{passage}\n{stem}" if passage else stem
        meta = {"passage": passage} if passage else {}
        if raw["options"]:
            options = unmarked(lettered(raw["options"], "options"))
            label = _label(raw["label"])
            gold_text = dict(options).get(label) if label else None
            return self.build("mcq", question, extra=meta, options=options, gold_label=label, gold_text=gold_text)
        answer = text(raw, "answer", nullable=True) if "answer" in raw else ""
        return self.build("math", question, extra=meta, answers=(answer,) if answer else ())


def unmarked(options: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The options without the mark `(A)` at the beginning of each.

    A few rows of gaokao-english and logiqa-en have `A. text`, `A? text` or `A text` instead. A bare `A` may also be
    an article, so it is a mark only where every option of the question begins with its letter.
    """
    marks = [re.match(rf"\({label}\)\s*|{label}[.:?)、．]\s*", option) for label, option in options]
    bare = [mark or re.match(rf"{label}\s+", option) for mark, (label, option) in zip(marks, options, strict=True)]
    marks = bare if all(bare) else marks
    return tuple(
        (label, option[mark.end() :] if mark else option) for mark, (label, option) in zip(marks, options, strict=True)
    )


def _label(value: Any) -> str | None:
    """`A`, `A,C` for a list of letters, or None for a null."""
    letters = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(letter, str) and len(letter) == 1 and letter in LABELS for letter in letters):
        raise BadRow(f"label is {value!r}, expected a letter, a list of letters or null")
    return ",".join(letters) or None


BENCHMARK = AgiEval(
    name="agieval",
    hf_id="ruixiangcui/AGIEval (GitHub)",
    split="data/v1",
    revision=None,
    licence="MIT and the terms of each exam",
    domain="gpr",
    schema=("passage", "question", "options", "label"),
    expected_rows=8_269,
)
