"""AGIEval v1: 21 exams, English and Chinese, most of them multiple choice, some about a passage.

8,269 rows in all. The rows of this schema are files of the authors' GitHub repository; what the hub has are re-uploads
in other schemas, so only local files are read. The gold is `label`, of open rows `answer`. Which tasks the paper took
is unknown; `crossthink eval` takes the English ones, and counts the open task math, which is MATH over again, apart.
"""

from __future__ import annotations

import re
from typing import Any

from data_prep.benchmarks.base import LABELS, Benchmark, lettered
from data_prep.rows import Question
from data_prep.sources.base import BadRow, text

# Task to rows, counted in the repository's files.
TASKS = {
    "aqua-rat": 254,
    "gaokao-biology": 210,
    "gaokao-chemistry": 207,
    "gaokao-chinese": 246,
    "gaokao-english": 306,
    "gaokao-geography": 199,
    "gaokao-history": 235,
    "gaokao-mathcloze": 118,
    "gaokao-mathqa": 351,
    "gaokao-physics": 200,
    "jec-qa-ca": 1000,
    "jec-qa-kd": 1000,
    "logiqa-en": 651,
    "logiqa-zh": 651,
    "lsat-ar": 230,
    "lsat-lr": 510,
    "lsat-rc": 269,
    "math": 1000,
    "sat-en": 206,
    "sat-en-without-passage": 206,
    "sat-math": 220,
}
MATH_TASK = "math"
MATH_OVERLAP = "102 of its 1,000 problems stand in MATH-500, too; all of them are MATH test problems."


class AgiEval(Benchmark):
    """Rows `{passage, question, options, label, answer, other}`, the lines of data/v1/TASK.jsonl.

    Options are `(A)text`; `label` is a letter, or a list of them where several are right (all of jec-qa, some of
    gaokao-physics). gaokao-mathcloze and math are open: options and label null, the gold in `answer`, a key that sat-*
    rows do not have. The task is the name of the file, see `task_of`.
    """

    def groups(self, question: Question) -> dict[str, str]:
        """See `Benchmark.groups`."""
        task = task_of(question.file)
        return {"task": task} if task else {}

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


def task_of(file: str) -> str | None:
    """The task whose rows a file of this name holds: `agieval_lsat_ar.jsonl` and `lsat-ar.jsonl` are lsat-ar."""
    stem = file.lower().replace("_", "-").removeprefix("agieval-").split(".")[0]
    return stem if stem in TASKS else None


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
    revision="5c77d073fda993f1652eaae3cf5d04cc5fd21d40",
    licence="MIT and the terms of each exam",
    domain="gpr",
    schema=("passage", "question", "options", "label"),
    expected_rows=8_269,
    overlaps=("sat-en and sat-en-without-passage ask the same questions.",),
)
