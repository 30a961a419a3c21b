"""Syn-QA: the QA file of nvidia/Nemotron-CrossThink. Multiple choice with the options inside the question's text.

Its card adds that models trained on the data may fall under the Qwen licence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from data_prep.rows import Drop, Question
from data_prep.sources.base import Source, text

_MARK = re.compile(r"^[ \t]*([A-Z])([.:)])(?=\s|$)", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_GOLD = re.compile(r"([A-Z])(?:\s*[.:)]\s*(.*))?", re.DOTALL)


class SynQA(Source):
    """Rows `{data_source, prompt, reward_model: {ground_truth}, meta_data: {question}}` (verl's shape but for the name
    `meta_data`).

    The options stand at the end of the question, 4 or 10 of them, as `A. x` or `A: x`. The gold is `F`, `F: text` or
    `F. text`. In a measured sample its letter and its text named two different options in 15% of the rows; both are
    kept here, and `filters.mcq` drops and counts the rows where they disagree.
    """

    def parse(self, raw: dict[str, Any]) -> Question | Drop:
        """See `Source.parse`."""
        stem, options = split_options(text(raw, "meta_data.question"))
        if not options:
            return Drop("no_options_in_question")
        label, gold_text = split_gold(text(raw, "reward_model.ground_truth"))
        return self.build("mcq", stem, options=options, gold_label=label, gold_text=gold_text)


def split_options(question: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The question without its options, and the options in order (none: the text unchanged and an empty tuple).

    Options begin with a line `A. x`, `A: x` or `A) x` and go on with B, C, ... under the same mark. A line that does
    not begin the next letter continues the option before it (code and tables run over several lines). Where several
    lines could be the first, the one with the longest run of letters wins, and of equal ones the last: a stem may
    itself list things by letter.

    A paragraph after the last option is cut off, unless other options have paragraphs too: in 1% of the sampled rows a
    remark of the generator stands there ("Ensure that one of the ten choices is correct ...").
    """
    found = list(_MARK.finditer(question))
    runs = [_run(found[at:]) for at, mark in enumerate(found) if mark[1] == "A"]
    runs = [run for run in runs if len(run) >= 2]
    if not runs:
        return question, ()
    marks = max(reversed(runs), key=len)  # of equal ones max takes the first, here the last of the text
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    texts = [question[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    paragraph = _PARAGRAPH.search(texts[-1])
    if paragraph and not any(_PARAGRAPH.search(option) for option in texts[:-1]):
        texts[-1] = texts[-1][: paragraph.start()]
    labels = (mark[1] for mark in marks)
    return question[: marks[0].start()].strip(), tuple(zip(labels, texts, strict=True))


def _run(marks: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """Those of `marks` that continue the first one: the next letter under the same sign, again and again."""
    run = [marks[0]]
    for mark in marks[1:]:
        if ord(mark[1]) == ord(run[-1][1]) + 1 and mark[2] == run[0][2]:
            run.append(mark)
    return run


def split_gold(gold: str) -> tuple[str | None, str | None]:
    """`F` -> (F, None); `F: text`, `F. text`, `F) text` -> (F, text); anything else -> (None, the whole)."""
    match = _GOLD.fullmatch(gold)
    return (match[1], match[2] or None) if match else (None, gold)


SOURCE = SynQA(
    name="syn_qa",
    hf_id="nvidia/Nemotron-CrossThink",
    split="train_qa",
    revision="a4ce9a3b9434c5f231e2cbe30696d9a721c11d69",
    licence="CC-BY-4.0",
    domain="gpr",
    schema=("data_source", "prompt", "reward_model.ground_truth", "meta_data.question"),
    expected_rows=187_496,
    paper_rows=192_930,
    # The second is an older name, which scripts of third parties still use.
    files=("Data/Nemotron-CrossThink-QA.jsonl|*Nemotron-CrossThink-QA_qa.jsonl",),
)
