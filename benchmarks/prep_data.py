"""Synthetic rows for `benchmarks/prep.py`: Table 1's sizes, six real schemas, realistic lengths, flaws of every kind.

Lengths follow what is known of the real files (bytes a row of the released Syn-QA and PersonaSkill-MATH; RACE passages
in MMLU's auxiliary_train). About half of the mathematical golds are no plain numbers. A tenth are duplicates.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {  # paper, Table 1
    "mmlu_train": 99_842,
    "syn_qa": 192_930,
    "natural_reasoning": 100_000,
    "numina_math": 87_350,
    "personaskill_math": 100_000,
    "math": 8_523,
}
BENCHMARK_ITEMS = {"mmlu_test": 14_042, "mmlu_pro": 12_032, "supergpqa": 26_529, "agieval": 8_269, "math500": 500}
DUPLICATES = 0.10
FLAWED = 0.05
PLANTED = 0.002  # rows that are a benchmark's question
WORDS = 30_000


class Text:
    """Sentences of made-up words, as frequent as words are (Zipf)."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        letters = np.array(list(string.ascii_lowercase))
        lengths = self.rng.integers(2, 11, WORDS)
        self.words = np.array(["".join(self.rng.choice(letters, n)) for n in lengths], dtype=object)
        ranks = 1.0 / np.arange(1, WORDS + 1)
        self.cumulative = np.cumsum(ranks / ranks.sum())
        self._buffer = np.empty(0, dtype=object)

    def some(self, count: int) -> str:
        """`count` words with a capital and a full stop."""
        if len(self._buffer) < count:
            drawn = np.searchsorted(self.cumulative, self.rng.random(1_000_000))
            self._buffer = self.words[np.minimum(drawn, WORDS - 1)]
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return " ".join(taken).capitalize() + "."

    def about(self, mean: float, least: int = 3) -> str:
        """About `mean` words, with a long tail."""
        return self.some(max(least, int(self.rng.gamma(2.5, mean / 2.5))))

    def short(self, low: int, high: int) -> str:
        """`low` to `high` words without a full stop."""
        return self.some(int(self.rng.integers(low, high + 1)))[:-1]

    def number(self, top: int = 1000) -> int:
        """A whole number from 1."""
        return int(self.rng.integers(1, top))

    def chance(self, share: float) -> bool:
        """True in `share` of the calls."""
        return bool(self.rng.random() < share)


def math_gold(text: Text) -> str:
    """Half plain numbers; else fractions, roots, intervals, tuples, polynomials, units, text."""
    n, m, k = text.number(400), text.number(60), text.number(30)
    if text.chance(0.5):
        return str(n) if text.chance(0.8) else f"{n}.{m}"
    forms = (
        rf"\frac{{{n}}}{{{m}}}", rf"\frac{{{n}}}{{{m}}}", rf"{k}\sqrt{{{m}}}", rf"\left[{k}, {k + m}\right)",
        f"({k}, {m})", f"{k}x^2 + {m}x - {n}", rf"{n}\pi", rf"\frac{{{k} + \sqrt{{{m}}}}}{{{m}}}", f"x = {n}",
        rf"{n}^\circ", rf"{n} \text{{ cm}}", f"{k}, {m}, {n}", rf"2^{{{k}}} - {m}", f"{n}%", rf"\${n}",
    )  # fmt: skip
    return forms[int(text.rng.integers(len(forms)))]


def mmlu_train(text: Text, index: int) -> dict[str, Any]:
    """Half with a passage before the question, as RACE has."""
    passage = text.about(220) + "\n" if text.chance(0.5) else ""
    choices = [text.short(1, 9) for _ in range(4)]
    if text.chance(FLAWED):
        choices[1] = choices[0]
    return {"question": passage + text.about(14), "subject": "", "choices": choices, "answer": text.number(5) - 1}


def _verl(question: str, gold: str, index: int) -> dict[str, Any]:
    return {
        "data_source": "nemotron-crossthink",
        "prompt": [{"role": "user", "content": "Answer the question below step by step.\n" + question}],
        "reward_model": {"style": "rule", "ground_truth": gold},
        "meta_data": {"question": question, "index": index},
    }


def syn_qa(text: Text, index: int) -> dict[str, Any]:
    """Ten options in most rows; letter and text disagree in some."""
    count = 10 if text.chance(0.87) else 4
    options = [text.short(2, 10) for _ in range(count)]
    right = text.number(count + 1) - 1
    named = options[text.number(count + 1) - 1] if text.chance(2 * FLAWED) else options[right]
    lines = [f"{label}: {option}" for label, option in zip(string.ascii_uppercase, options, strict=False)]
    question = "\n".join([text.about(28), *lines])
    return _verl(question, f"{string.ascii_uppercase[right]}: {named}", index)


def natural_reasoning(text: Text, index: int) -> dict[str, Any]:
    """A tenth without or with too long an answer: the filter H has something to do."""
    answer = text.short(1, 9) if not text.chance(2 * FLAWED) else ("" if text.chance(0.4) else text.about(40, 11))
    responses = [{"response_model": "made-up", "response": text.about(120)}]
    return {"question": text.about(55), "reference_answer": answer, "responses": responses}


def numina_math(text: Text, index: int) -> dict[str, Any]:
    """Some proofs and some rows marked not valid."""
    return {
        "problem": f"{text.about(45)} $x^{{{text.number(9)}}} + {text.number()}x = {text.number()}$",
        "solution": text.about(160),
        "answer": "proof" if text.chance(FLAWED) else math_gold(text),
        "problem_type": "Algebra",
        "question_type": "math-word-problem",
        "problem_is_valid": "No" if text.chance(FLAWED / 2) else "Yes",
        "solution_is_valid": "Yes",
        "source": "made_up",
        "synthetic": False,
    }


def personaskill_math(text: Text, index: int) -> dict[str, Any]:
    """Long stories; some without a ground truth, some with one that nobody can parse."""
    gold = math_gold(text)
    if text.chance(FLAWED):
        gold = "" if text.chance(0.5) else rf"\frac{{{text.number()}}}{{"
    return _verl(f"{text.about(110)} {text.number()} and {text.number()}?", gold, index)


def math(text: Text, index: int) -> dict[str, Any]:
    """Levels 1 to 5, the answer in the solution's last box."""
    solution = rf"{text.about(60)} $\boxed{{{math_gold(text)}}}$"
    level = f"Level {1 + index % 5}"
    return {"problem": text.about(40), "level": level, "type": "Algebra", "solution": solution}


MAKERS: dict[str, Callable[[Text, int], dict[str, Any]]] = {
    maker.__name__: maker for maker in (mmlu_train, syn_qa, natural_reasoning, numina_math, personaskill_math, math)
}


def benchmark_row(name: str, text: Text, index: int) -> dict[str, Any]:
    """A row of a benchmark in its real schema."""
    options = [text.short(1, 8) for _ in range(4 if name == "mmlu_test" else 10)]
    question = text.about(35, 5)
    if name == "mmlu_test":
        return {"question": question, "subject": "made_up", "choices": options, "answer": index % 4}
    if name == "mmlu_pro":
        return {"question_id": index, "question": question, "options": options, "answer": "ABCDEFGHIJ"[index % 10],
                "answer_index": index % 10, "cot_content": "", "category": "made up", "src": "made up"}  # fmt: skip
    if name == "supergpqa":
        return {"uuid": str(index), "question": question, "options": options, "answer": options[index % 10],
                "answer_letter": "ABCDEFGHIJ"[index % 10], "discipline": "", "field": "", "subfield": "",
                "difficulty": "easy", "is_calculation": False}  # fmt: skip
    if name == "agieval":
        five = [f"({label}){option}" for label, option in zip("ABCDE", options, strict=False)]
        passage = text.about(150) if index % 2 else None
        return {"passage": passage, "question": question, "options": five, "label": "ABCDE"[index % 5],
                "answer": None, "other": None}  # fmt: skip
    return {"problem": question, "solution": text.about(50), "answer": math_gold(text), "subject": "Algebra",
            "level": 1 + index % 5, "unique_id": str(index)}  # fmt: skip


def _rows(name: str, count: int, text: Text, planted: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a source, with duplicates of earlier ones and, where the schema fits, a benchmark's questions."""
    earlier: list[dict[str, Any]] = []
    for index in range(count):
        if earlier and text.chance(DUPLICATES):
            yield earlier[text.number(len(earlier) + 1) - 1]
            continue
        if name == "mmlu_train" and text.chance(PLANTED):
            item = planted[text.number(len(planted) + 1) - 1]
            yield {key: item[key] for key in ("question", "subject", "choices", "answer")}
            continue
        row = MAKERS[name](text, index)
        if len(earlier) < 5000:
            earlier.append(row)
        yield row


def write_data(folder: Path, scale: float, seed: int = 0) -> None:
    """Write `folder/sources/NAME.jsonl` and `folder/benchmarks/NAME.jsonl`, `scale` times the full size."""
    text = Text(seed)
    (folder / "sources").mkdir(parents=True)
    (folder / "benchmarks").mkdir()
    planted: list[dict[str, Any]] = []
    for name, count in BENCHMARK_ITEMS.items():
        # The benchmarks keep their size: a smaller run is checked against all of them, too.
        rows = [benchmark_row(name, text, index) for index in range(count)]
        planted = planted or rows
        _write(folder / "benchmarks" / f"{name}.jsonl", rows)
    for name, count in SIZES.items():
        _write(folder / "sources" / f"{name}.jsonl", _rows(name, int(count * scale), text, planted))


def _write(path: Path, rows: Any) -> None:
    with open(path, "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
