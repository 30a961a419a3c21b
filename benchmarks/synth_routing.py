"""How often topic routing finds the subject of a real MMLU question: the table in docs/synth.md.

    .venv/bin/python benchmarks/synth_routing.py SAMPLES

SAMPLES holds mmlu_test_sample.jsonl and mmlu_dev.jsonl: rows `{question, choices, subject}`. Each question is routed by
its text and its options, with no least score, so that every one counts. Prints the share that reaches its subject and
its subject's group, beside what chance gives: the most frequent one always, and one drawn evenly.

The key terms were written without a look at the rows; ways of weighing them were compared on mmlu_dev alone.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

FILES = ("mmlu_test_sample", "mmlu_dev")


def main() -> int:
    """Route the rows of each file and print the table."""
    from data_prep.synthesis.routing import LexicalRouter
    from data_prep.synthesis.subjects import load_subjects

    subjects = load_subjects(None)
    groups = {subject.name: subject.group for subject in subjects}
    router = LexicalRouter(subjects, least_score=0.0)
    print("| file | rows | of | right | most frequent | even chance |\n|---|---|---|---|---|---|")
    for name in FILES:
        rows = [json.loads(line) for line in (Path(sys.argv[1]) / f"{name}.jsonl").read_text("utf-8").splitlines()]
        routes = router.route(["\n".join([row["question"], *row["choices"]]) for row in rows])
        found = [route.subject or "" for route in routes]
        wanted = [row["subject"] for row in rows]
        print(line(name, "subject", wanted, found, len(groups)))
        wanted, found = [groups[one] for one in wanted], [groups.get(one, "") for one in found]
        print(line(name, "group", wanted, found, len(set(groups.values()))))
    return 0


def line(file: str, of: str, wanted: Sequence[str], found: Sequence[str], classes: int) -> str:
    """A row of the table."""
    right = sum(one == other for one, other in zip(wanted, found, strict=True)) / len(wanted)
    frequent = Counter(wanted).most_common(1)[0][1] / len(wanted)
    return f"| {file} | {len(wanted):,} | {of} | {right:.1%} | {frequent:.1%} | {1 / classes:.1%} |"


if __name__ == "__main__":
    sys.exit(main())
