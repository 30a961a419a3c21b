"""`crossthink prep` over a folder of small real samples: the table of counts in docs/data.md.

    .venv/bin/python benchmarks/prep_real.py SAMPLES OUT

SAMPLES holds rows of MATH train, MMLU's auxiliary_train, Natural Reasoning and NuminaMath-1.5 in their own schemas, and
stand-ins for the sources that are not to be had in small: Syn-QA as another project rewrote it, DeepMath for
PersonaSkill-MATH, Multi-subject-RLVR beside Natural Reasoning. These are put into the schemas that the readers know, in
OUT. The benchmarks are SAMPLES itself. Prints the Markdown table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def nvidia(row: Row) -> Row:
    """A row of ROLL's form in the schema of nvidia/Nemotron-CrossThink."""
    question = json.loads(row["messages"])[-1]["content"]
    question = question.split("inside \\boxed{}. \n", 1)[-1]  # ROLL's own instruction
    return {
        "data_source": "stand-in",
        "prompt": [{"role": "user", "content": question}],
        "reward_model": {"style": "rule", "ground_truth": row["ground_truth"]},
        "meta_data": {"question": question, "index": 0},
    }


def natural(row: Row) -> Row:
    """A row of ROLL's form in the schema of facebook/natural_reasoning."""
    return {"question": json.loads(row["messages"])[-1]["content"], "reference_answer": row["ground_truth"]}


def same(row: Row) -> Row:
    """The row as it is."""
    return row


# Source, and its files with how their rows become the source's.
PARTS: dict[str, list[tuple[str, Callable[[Row], Row]]]] = {
    "mmlu_train": [("mmlu_auxiliary_train_science", same)],
    "syn_qa": [("nemotron_crossthink_qa_roll_transformed", nvidia)],
    "natural_reasoning": [
        ("natural_reasoning_two_rows_no_responses", same),
        ("multi_subject_rlvr_open_qa_roll_transformed", natural),
    ],
    "personaskill_math": [("deepmath_roll_transformed", nvidia)],
    "math": [("math_train_sample", same)],
}


def main() -> int:
    """Convert, prepare, print."""
    samples, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True)
    words = [f"sources=[{','.join(PARTS)}]", f"decontaminate.path={samples}", f"out={out / 'pool'}"]
    for source, parts in PARTS.items():
        with open(out / f"{source}.jsonl", "w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for name, form in parts for row in read(samples, name, form))
        words.append(f"sources.{source}.path={out / source}.jsonl")
    subprocess.run([sys.executable, "-m", "recipes.cli", "prep", *words], check=True, stdout=subprocess.DEVNULL)
    manifest = json.loads((out / "pool" / "manifest.json").read_text("utf-8"))
    print("| source | rows in | dropped, by reason | rows out |\n|---|---|---|---|")
    for source, facts in manifest["sources"].items():
        dropped: Counter[str] = sum((Counter(step["dropped"]) for step in facts["steps"]), Counter())
        reasons = ", ".join(f"{count} `{reason}`" for reason, count in dropped.most_common()) or "none"
        print(f"| `{source}` | {facts['rows_in']:,} | {reasons} | {facts['rows_out']:,} |")
    return 0


def read(samples: Path, name: str, form: Callable[[Row], Row]) -> Iterator[Row]:
    """The rows of a sample file in the source's schema."""
    for line in (samples / f"{name}.jsonl").read_text("utf-8").splitlines():
        yield form(json.loads(line))


if __name__ == "__main__":
    sys.exit(main())
