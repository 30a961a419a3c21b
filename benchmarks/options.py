"""Each GRPO option, and PPO, for 60 steps of the demo's task: the rise of R as a Markdown table.

    .venv/bin/python benchmarks/options.py OUT [NAME ...]

The first run is the demo's own, cut to 60 steps; the others start from its warm-started policy, with its prompts. A
finished run is only read. R is the mean over the responses of ten steps.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from recipes.run_files import read_lines
from recipes.run_folder import BASE, DEMO_POOL

STEPS, ENDS = 60, 10
PAPER = "the paper's form"
OPTIONS = {
    "token mean": ["algorithm.average=token"],
    "Dr. GRPO": ["algorithm.average=constant", "algorithm.divide_by_std=false"],
    "several updates per rollout": ["updates_per_rollout=4"],
    "clip-higher": ["updates_per_rollout=4", "algorithm.clip_high=0.28"],
    "dual clip": ["updates_per_rollout=4", "algorithm.dual_clip=3"],
    "dynamic sampling": ["algorithm.dynamic_sampling=3"],
    "overlong masking": ["algorithm.mask_truncated=true"],
    "overlong shaping": ["algorithm.overlong_buffer=10"],
    "KL estimator k1": ["algorithm.kl_estimator=k1"],
    "KL estimator k2": ["algorithm.kl_estimator=k2"],
    "KL in the reward": ["algorithm.kl_in=reward"],
    "truncated importance sampling": ["algorithm.importance_cap=2"],
    "PPO": ["algorithm=ppo"],
}


def main() -> int:
    """Run what is missing, print the table; 1 if R rose by less than 0.05 somewhere."""
    out = Path(sys.argv[1])
    unknown = sorted(set(sys.argv[2:]) - OPTIONS.keys())
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}. Known: {', '.join(OPTIONS)}")
    names = sys.argv[2:] or list(OPTIONS)
    first = out / "grpo"
    if not (first / "report.json").is_file():
        crossthink("demo", f"steps={STEPS}", f"out={first}")
    runs = {PAPER: first, **{name: out / name.replace(" ", "_").replace(".", "") for name in names}}
    # One thread: small tensors gain little from more, and two commands with other names can run side by side.
    base = [f"model={first / BASE}", f"data={first / DEMO_POOL}", f"steps={STEPS}", "resume=true", "actor.threads=1"]
    for name in names:
        if len(rewards(runs[name])) < STEPS:
            crossthink("train", "recipe=tiny", *base, f"out={runs[name]}", *OPTIONS[name])
    print("| form | options | R, first → last 10 steps | rise |")
    print("|---|---|---|---|")
    rises = []
    for name, run in runs.items():
        found = rewards(run)
        one, other = sum(found[:ENDS]) / ENDS, sum(found[-ENDS:]) / ENDS
        rises.append(other - one)
        words = " ".join(f"`{word}`" for word in OPTIONS.get(name, []))
        print(f"| {name} | {words} | {one:.3f} → {other:.3f} | {other - one:+.3f} |")
    return int(min(rises) < 0.05)


def crossthink(*words: str) -> None:
    """Run `crossthink WORDS`."""
    subprocess.run([sys.executable, "-m", "recipes.cli", *words], check=True, stdout=sys.stderr)


def rewards(run: Path) -> list[float]:
    """Mean R of every step."""
    return [line["reward"] for line in read_lines(run / "metrics.jsonl")]


if __name__ == "__main__":
    sys.exit(main())
