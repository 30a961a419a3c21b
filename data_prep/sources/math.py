r"""MATH train: competition problems whose answer is the last \boxed{} of the solution.

Unverified: the revision, and the number of rows (the MATH paper's; nobody has counted the hub's).
"""

from __future__ import annotations

import re
from typing import Any

from data_prep.rows import Question
from data_prep.sources.base import BadRow, Source, text

# The hub keeps a folder each; a download that lacks one must not pass for the whole.
TOPICS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_LEVEL = re.compile(r"Level (\d|\?)")
_BOX = re.compile(r"\\boxed(?![a-zA-Z])\s*(\{?)")


class Math(Source):
    """Rows `{problem, level, type | subject, solution}`, with `answer` in some re-splits.

    Levels: the origin writes "Level 3" (and for a few problems "Level ?"), re-splits the number. All of them are read;
    `filters.math_levels=[3,4,5]` keeps the paper's, about 5,580 rows of MATH train.

    The paper counts 8,523, and MATH train cannot give them. A public set of exactly that many rows
    (GAIR-NLP/LIMR, math.8k.json; SimpleRL-Zoo's has as many) holds 5,580 of MATH train and 2,943 of MATH *test*, of
    which 571 are in AGIEval and 1 in MATH-500. That the paper used this set is an inference from the count. We take
    train alone: the rest is what the benchmarks ask.
    """

    def parse(self, raw: dict[str, Any]) -> Question:
        """See `Source.parse`. No answer and no box leave `answers` empty, which `filters.math` drops."""
        stated = text(raw, "answer", nullable=True) if "answer" in raw else ""
        answer = stated or last_boxed(text(raw, "solution", nullable=True) if "solution" in raw else "")
        return self.build(
            "math",
            text(raw, "problem"),
            subject=text(raw, "type" if "type" in raw else "subject", nullable=True),
            extra={"level": _level(raw["level"])},
            answers=(answer,) if answer else (),
        )


def last_boxed(solution: str) -> str | None:
    r"""What the last `\boxed{...}` of `solution` holds, stripped, by brace matching; None without one.

    An escaped brace (`\{`) is text and does not nest. A last box that is unclosed or has no brace (`\boxed 4`) is no
    answer, and an earlier box is none either: it may hold a step.
    """
    boxes = list(_BOX.finditer(solution))
    if not boxes or not boxes[-1][1]:
        return None
    start = at = boxes[-1].end()
    depth = 1
    while at < len(solution):
        if solution[at] == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(solution[at], 0)
        if depth == 0:
            return solution[start:at].strip()
        at += 1
    return None


def _level(value: Any) -> int | None:
    """1 to 5, or None for the origin's "Level ?"."""
    if isinstance(value, str) and (match := _LEVEL.fullmatch(value.strip())):
        value = None if match[1] == "?" else int(match[1])
        if value is None:
            return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 5:
        raise BadRow(f"level is {value!r}, expected 1 to 5 or 'Level 1' to 'Level 5'")
    return value


SOURCE = Math(
    name="math",
    hf_id="EleutherAI/hendrycks_math",
    split="train",
    revision=None,
    licence="MIT",
    domain="math",
    schema=("problem", "level", "type|subject", "solution|answer"),
    expected_rows=7_500,
    paper_rows=8_523,
    files=tuple(f"{topic}/train-*.parquet" for topic in TOPICS),
    paper_levels=(3, 4, 5),
    unverified=("revision", "expected_rows"),
)
