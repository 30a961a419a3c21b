"""The demo for several seeds: gain, accuracy and seconds as a Markdown table, and the README's picture.

    .venv/bin/python benchmarks/demo.py OUT [SEED ...] [KEY=VALUE ...]

Runs `crossthink demo seed=S out=OUT/seed_S` with the given overrides one after another (a finished one is only read),
default seeds 0 1 2. The picture is drawn where there are no overrides.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from recipes.report import result_plot
from recipes.run_files import read_lines

PICTURE = Path(__file__).parents[1] / "docs" / "demo.png"
COLUMNS = (
    "seed",
    "mean R",
    "gain",
    "answer accuracy",
    "gpr R",
    "math R",
    "training reward, first → last 10 steps",
    "s",
)


def main() -> int:
    """Run what is missing, print the table, draw the first seed's picture."""
    out = Path(sys.argv[1])
    overrides = [word for word in sys.argv[2:] if "=" in word]
    seeds = [int(word) for word in sys.argv[2:] if "=" not in word] or [0, 1, 2]
    for seed in seeds:
        run = out / f"seed_{seed}"
        if not (run / "report.json").is_file():
            words = ["demo", f"seed={seed}", f"out={run}", *overrides]
            subprocess.run([sys.executable, "-m", "recipes.cli", *words], check=True, stdout=sys.stderr)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for seed in seeds:
        print("| " + " | ".join(row(out / f"seed_{seed}", seed)) + " |")
    if not overrides:
        result_plot(out / f"seed_{seeds[0]}", PICTURE)
    return 0


def row(run: Path, seed: int) -> list[str]:
    """One line of the table."""
    report = json.loads((run / "report.json").read_text("utf-8"))
    rewards = [line["reward"] for line in read_lines(run / "metrics.jsonl")]
    domains = [report["by_domain"][name] for name in ("gpr", "math")]
    return [
        str(seed),
        arrow(report["base_reward"], report["final_reward"]),
        f"{report['gain']:+.3f}",
        arrow(report["base_answer_accuracy"], report["final_answer_accuracy"]),
        *(arrow(domain["base_reward"], domain["final_reward"]) for domain in domains),
        arrow(sum(rewards[:10]) / 10, sum(rewards[-10:]) / 10),
        f"{report['seconds']:.0f}",
    ]


def arrow(before: float, after: float) -> str:
    """`before → after` with three decimals."""
    return f"{before:.3f} → {after:.3f}"


if __name__ == "__main__":
    sys.exit(main())
