"""Lines of samples.jsonl and whole evaluation folders for tests, without a model."""

from __future__ import annotations

import json
from typing import Any

from recipes.evaluation.summary import summarise

IDENTITY = {"questions": "q" * 64, "rules_hash": "0123456789ab", "protocol": {"runs": 3, "temperature": 0.0}}


def sample(
    number: int,
    right: float | None = 1,
    benchmark: str = "mmlu_test",
    run: int = 0,
    tokens: int | None = 10,
    status: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """An answer; `right` None stands for one that could not be judged."""
    math = benchmark in ("math500", "amc23")
    valid = right is not None
    return {
        "benchmark": benchmark,
        "id": f"{number:032x}",
        "run": run,
        "source": benchmark,
        "domain": "math" if math else "gpr",
        "kind": "math" if math else "mcq",
        "groups": {},
        "private": False,
        "question": f"question {number}",
        "options": None if math else {"A": "one", "B": "two"},
        "ground_truth": ["A"],
        "response": f"<think>{number}</think>\\boxed{{{'A' if right else 'B'}}}",
        "tokens": tokens,
        "finish_reason": "stop",
        "verdict": {
            "reward": float(right) if valid else None,
            "accuracy": int(right) if valid else None,
            "format": 1 if valid else None,
            "extracted": "A" if right else "B",
            "status": status or ("bad_gold" if not valid else "correct" if right else "wrong"),
        },
        "answer_accuracy": float(right) if valid else None,
        **fields,
    }


def write_evaluation(folder, samples, identity=None, facts=None):
    """An evaluation folder as `crossthink eval` leaves it."""
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in samples))
    (folder / "summary.json").write_text(json.dumps(summarise(samples, facts or {})))
    (folder / "identity.json").write_text(json.dumps({**IDENTITY, **(identity or {})}))
    return folder
