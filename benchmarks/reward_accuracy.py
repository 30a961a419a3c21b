"""The rules against a labelled set, and Math-Verify alone on its mathematics.

    .venv/bin/python benchmarks/reward_accuracy.py

The cases in `benchmarks/reward_cases/*.jsonl` were written from the rules (docs/rewards.md) without looking at the
code. A class that ends in "?" holds cases which the rules leave open; their labels are decisions, named in the docs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from reward_server.local import LocalJudge
from reward_server.verdicts import Item, Verdict

CASES = Path(__file__).parent / "reward_cases"
PARTS = ("format", "mcq", "open", "math")
FALSE_ACCEPTS = (
    "tiny_values", "mathrm", "ellipsis", "anagram", "and_words", "set_vs_tuple", "unit_mismatch", "percent",
    "unevaluated", "letter_case",
)  # fmt: skip
"""Classes of wrong answers that Math-Verify 0.9 accepts."""
LABELS = ("class", "accuracy", "format", "status", "why")

Case = dict[str, Any]


def main() -> int:
    """Judge all cases and print the table; 1 where a case is misjudged."""
    every: list[tuple[Case, Verdict]] = []
    with LocalJudge() as judge:
        print("| part | cases | negatives | right | false accepts | false rejects |\n|---|---|---|---|---|---|")
        for part in PARTS:
            cases = load(part)
            pairs = list(zip(cases, judge.score(list(map(item, cases))), strict=True))
            every += pairs
            _row(part, pairs)
        _row("all", every)
    maths = [(case, verdict) for case, verdict in every if case["id"].startswith("math")]
    _compare([(case, verdict) for case, verdict in maths if case["accuracy"] is not None])
    missed = [(case, verdict) for case, verdict in every if not agrees(case, verdict)]
    for case, verdict in missed:
        print(f"{case['id']} ({case['class']}): {case['status']} wanted, {verdict.status} given. {case['why']}")
    return 1 if missed else 0


def load(part: str) -> list[Case]:
    """The cases of one file."""
    with (CASES / f"{part}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def item(case: Case) -> Item:
    """The item of a case."""
    return Item.from_json({key: value for key, value in case.items() if key not in LABELS})


def agrees(case: Case, verdict: Verdict) -> bool:
    """Whether status, accuracy and format are as labelled."""
    return (verdict.status, verdict.accuracy, verdict.format) == (case["status"], case["accuracy"], case["format"])


def _row(name: str, pairs: Sequence[tuple[Case, Verdict]]) -> None:
    right = sum(agrees(case, verdict) for case, verdict in pairs)
    negatives = sum(case["status"] != "correct" for case, _ in pairs)
    accepts = sum(verdict.status == "correct" != case["status"] for case, verdict in pairs)
    rejects = sum(case["status"] == "correct" != verdict.status for case, verdict in pairs)
    share = 100 * right / len(pairs)
    print(f"| {name} | {len(pairs)} | {negatives} | {right} ({share:.1f} %) | {accepts} | {rejects} |")


def _compare(pairs: Sequence[tuple[Case, Verdict]]) -> None:
    """Accuracy on valid mathematical cases, ours beside Math-Verify's on the whole response."""
    classes = sorted({case["class"] for case, _ in pairs} - set(FALSE_ACCEPTS))
    ours = [bool(verdict.accuracy) for _, verdict in pairs]
    theirs = [_by_math_verify(case) for case, _ in pairs]
    print("\n| mathematics | cases | ours right | false accepts | Math-Verify right | false accepts |")
    print("|---|---|---|---|---|---|")
    for names, title in ((FALSE_ACCEPTS, "listed classes"), (classes, "all other classes")):
        rows = [
            index
            for index, (case, _) in enumerate(pairs)
            if case["class"].rstrip("?") in names or case["class"] in names
        ]
        print(f"| {title} | {len(rows)} | {_scored(pairs, ours, rows)} | {_scored(pairs, theirs, rows)} |")
    for name in FALSE_ACCEPTS:
        rows = [index for index, (case, _) in enumerate(pairs) if case["class"] == name]
        print(f"| … {name} | {len(rows)} | {_scored(pairs, ours, rows)} | {_scored(pairs, theirs, rows)} |")
    print()


def _scored(pairs: Sequence[tuple[Case, Verdict]], found: Sequence[bool], rows: Sequence[int]) -> str:
    right = sum(found[row] == bool(pairs[row][0]["accuracy"]) for row in rows)
    accepts = sum(found[row] and not pairs[row][0]["accuracy"] for row in rows)
    return f"{right} ({100 * right / len(rows):.1f} %) | {accepts}"


def _by_math_verify(case: Case) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    answer = parse(case["response"], (ExprExtractionConfig(), LatexExtractionConfig()))
    golds = [parse(f"\\boxed{{{gold}}}", (LatexExtractionConfig(),)) for gold in case["ground_truth"]]
    return any(verify(gold, answer) for gold in golds)


if __name__ == "__main__":
    sys.exit(main())
