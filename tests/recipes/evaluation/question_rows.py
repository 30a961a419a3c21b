"""Invented benchmark rows in the real schemas, and settings that ask them."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

from conf.evaluate import QuestionsConfig
from data_prep.rows import PoolRow
from recipes.evaluation.questions import Asked, QuestionSet

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"


def math500_row(number: int) -> dict[str, Any]:
    """A problem whose answer is `number` + 1."""
    shared = {"solution": "", "subject": "Algebra", "level": number % 5 + 1, "unique_id": f"test/{number}"}
    return {"problem": f"What is ${number}+1$?", "answer": str(number + 1), **shared}


def mmlu_row(number: int, answer: int = 1) -> dict[str, Any]:
    """A question with four choices, `answer` the right one."""
    choices = [f"{number} legs", "eight", "nine", "ten"]
    return {"question": f"How many legs have {number} things?", "subject": "zoology", "choices": choices,
            "answer": answer}  # fmt: skip


def gpqa_row(number: int) -> dict[str, Any]:
    """A question with the release's own column names, and one that nobody reads."""
    wrong = {f"Incorrect Answer {one}": f"false, {one}" for one in (1, 2, 3)}
    domains = {"High-level domain": "Physics", "Subdomain": "Optics"}
    return {"Pre-Revision Question": "", "Question": f'Which "one" of {number}?', "Correct Answer": "true", **wrong,
            "Record ID": f"rec{number}", **domains}  # fmt: skip


def agieval_row(number: int, label: str | list[str] = "A") -> dict[str, Any]:
    """A question of three options."""
    return {"passage": None, "question": f"Exam {number}?", "options": ["(A)x", "(B)y", "(C)z"], "label": label}


def agieval_math_row(number: int) -> dict[str, Any]:
    """An open problem."""
    return {"passage": None, "question": f"What is {number}?", "options": None, "label": None, "answer": str(number)}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    """Rows as JSON Lines, or as CSV where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def settings(folder: Path, *benchmarks: str, **more: Any) -> QuestionsConfig:
    """Settings that ask benchmarks whose rows lie in `folder`."""
    return QuestionsConfig(benchmarks=list(benchmarks), benchmarks_path=str(folder), **more)


def pool_row(at: int, source: str = "s", kind: str = "math", **change: Any) -> PoolRow:
    """A row of a pool: what to say is `at`, or of multiple choice always B."""
    made = PoolRow(
        id=f"id{at}",
        source=source,
        domain="math",
        kind=kind,
        question=f"Say {at}.",
        options={"A": "x", "B": "y"} if kind == "mcq" else None,
        ground_truth=["B. y" if kind == "mcq" else str(at)],
        prompt=[{"role": "user", "content": f"Say {at}."}],
    )
    return dataclasses.replace(made, **change)


def by_benchmark(questions: QuestionSet) -> dict[str, list[Asked]]:
    """The questions of each benchmark; of an absent one, none."""
    return {name: [one for one in questions.asked if one.benchmark == name] for name in questions.facts}
