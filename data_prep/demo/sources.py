"""Writes the demo's six sources: one JSONL file each, in the schema of the real source of the same name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossthink.files import atomic_dir
from data_prep.demo.tasks import LABELS, TASKS, Problem, distinct_problems

DEMO_LICENCE = "Apache-2.0"  # the rows are this project's own, whatever real source their schema is from
BARE_PROMPTS = Path(__file__).parent / "prompts"  # the question and nothing else
TRAIN_ROWS = 900  # a source; the smallest task has 1,260 distinct problems
HELD_OUT_ROWS = 60  # a source, so 360 in all


def _inline_options(problem: Problem) -> str:
    lines = [f"{label}. {text}" for label, text in zip(LABELS, problem.options or (), strict=False)]
    return "\n".join([problem.question, *lines])


def _mmlu_train(problem: Problem, index: int) -> dict[str, Any]:
    answer = LABELS.index(problem.answer)
    return {"question": problem.question, "subject": "", "choices": list(problem.options or ()), "answer": answer}


def _verl_like(question: str, problem: Problem, index: int, gold: str) -> dict[str, Any]:
    return {
        "data_source": "crossthink-demo",
        "prompt": [{"role": "user", "content": question}],
        "reward_model": {"style": "rule", "ground_truth": gold},
        "meta_data": {"question": question, "index": index},
    }


def _syn_qa(problem: Problem, index: int) -> dict[str, Any]:
    text = (problem.options or ())[LABELS.index(problem.answer)]
    return _verl_like(_inline_options(problem), problem, index, f"{problem.answer}. {text}")


def _natural_reasoning(problem: Problem, index: int) -> dict[str, Any]:
    return {"question": problem.question, "reference_answer": problem.answer, "responses": []}


def _numina_math(problem: Problem, index: int) -> dict[str, Any]:
    return {
        "problem": problem.question,
        "solution": f"{problem.steps}, so the sum is {problem.answer}.",
        "answer": problem.answer,
        "problem_type": "Algebra",
        "question_type": "math-word-problem",
        "problem_is_valid": "Yes",
        "solution_is_valid": "Yes",
        "source": "crossthink-demo",
        "synthetic": True,
    }


def _personaskill_math(problem: Problem, index: int) -> dict[str, Any]:
    return _verl_like(problem.question, problem, index, problem.answer)


def _math(problem: Problem, index: int) -> dict[str, Any]:
    return {
        "problem": problem.question,
        "level": f"Level {1 + index % 5}",
        "type": "Algebra",
        "solution": rf"Since ${problem.steps}$, the answer is $\boxed{{{problem.answer}}}$.",
    }


SCHEMAS: dict[str, Callable[[Problem, int], dict[str, Any]]] = {
    "mmlu_train": _mmlu_train,
    "syn_qa": _syn_qa,
    "natural_reasoning": _natural_reasoning,
    "numina_math": _numina_math,
    "personaskill_math": _personaskill_math,
    "math": _math,
}


def write_demo_sources(out: Path, seed: int, train_rows: int = TRAIN_ROWS, held_out_rows: int = HELD_OUT_ROWS) -> None:
    """Write `out/train/NAME.jsonl`, `out/held_out/NAME.jsonl` and `out/worked.jsonl` for every demo source.

    No question stands in both splits. `worked.jsonl` holds the training questions again with the right and the slipped
    procedure, for the warm start; data preparation never reads it.

    Args:
        out: a folder that does not exist yet; it appears whole or not at all.
        seed: seeds the problems.
        train_rows: rows of each source in the training split.
        held_out_rows: rows of each source in the held-out split.
    """
    with atomic_dir(out) as aside:
        (aside / "train").mkdir()
        (aside / "held_out").mkdir()
        with open(aside / "worked.jsonl", "w", encoding="utf-8") as worked:
            for name in TASKS:
                problems = distinct_problems(name, train_rows + held_out_rows, seed)
                _write_rows(aside / "held_out" / f"{name}.jsonl", name, problems[:held_out_rows])
                _write_rows(aside / "train" / f"{name}.jsonl", name, problems[held_out_rows:])
                for problem in problems[held_out_rows:]:
                    worked.write(json.dumps({"source": name, **vars(problem)}) + "\n")


def _write_rows(path: Path, name: str, problems: list[Problem]) -> None:
    with open(path, "w", encoding="utf-8") as handle:
        for index, problem in enumerate(problems):
            handle.write(json.dumps(SCHEMAS[name](problem, index)) + "\n")
