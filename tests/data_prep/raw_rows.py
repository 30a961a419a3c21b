"""Rows made by hand in the real schemas of the sources."""

from __future__ import annotations

import json
from pathlib import Path

RAW = {
    "mmlu_train": [
        {"question": "Which gas do plants take in?", "subject": "", "choices": ["O2", "CO2", "N2", "He"], "answer": 1},
        {"question": "How many legs has a spider?", "subject": "", "choices": ["4", "6", "8", "10"], "answer": 2},
    ],
    "math": [
        {"problem": "What is $1+1$?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{2}$."},
        {"problem": "Halve $3$.", "level": 3, "subject": "Prealgebra", "solution": "", "answer": r"\frac{3}{2}"},
    ],
    "syn_qa": [
        {
            "data_source": "syn",
            "prompt": [{"role": "user", "content": "Pick one.\nWhat is H2O?\nA: Salt\nB: Water"}],
            "reward_model": {"style": "rule", "ground_truth": "B: Water"},
            "meta_data": {"question": "What is H2O?\nA: Salt\nB: Water", "index": 0},
        }
    ],
    "personaskill_math": [
        {
            "data_source": "math",
            "prompt": [{"role": "user", "content": "A baker sells 3 of 7 loaves. How many are left?"}],
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "meta_data": {
                "question": "A baker sells 3 of 7 loaves. How many are left?",
                "index": 0,
                "persona": "baker",
            },
        }
    ],
    "natural_reasoning": [
        {"question": "Why is the sky blue?", "reference_answer": "Rayleigh scattering", "responses": []},
        {"question": "What is the unit of force?", "reference_answer": "newton"},
    ],
    "numina_math": [
        {
            "problem": "\nFind $x$ with $x+1=3$.\n",
            "solution": "Subtract.",
            "answer": "2",
            "problem_type": "Algebra",
            "question_type": "math-word-problem",
            "problem_is_valid": "Yes",
            "solution_is_valid": "Yes",
            "source": "olympiads",
            "synthetic": False,
        }
    ],
}


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
