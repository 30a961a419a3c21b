"""Part `lag` of `benchmarks/rollout.py`: a step at rollout.lag=0 and 1, with a server that is slowed down.

The server sleeps after every token, as if it generated on a device of its own: lag=1 hides that behind training.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rollout_processes import ROOT, rollout_server

STEPS, WARM = 10, 2
DELAY_S = 0.04  # a token; responses have up to 40


def run(turns: int) -> bool:
    """Print the table. No target is set. `turns` runs of each lag, alternating."""
    from recipes.run_files import read_lines

    found: dict[int, list[dict]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        crossthink("train", "recipe=tiny", f"out={out / 'first'}", "steps=1", "warm_start.steps=100")
        base, pool = out / "first/base", out / "first/demo/pool"
        with rollout_server(base, "weights=refit", "threads=1", f"token_delay_s={DELAY_S}") as url:
            for turn in range(turns):
                for lag in found:
                    run_folder = out / f"lag_{lag}_{turn}"
                    crossthink(
                        "train", "recipe=tiny", f"model={base}", f"data={pool}", f"out={run_folder}", f"steps={STEPS}",
                        f"rollout.url=[{url}]", f"rollout.lag={lag}", "algorithm.importance_cap=2.0", "actor.threads=1",
                        "prompts_per_step=64",
                    )  # fmt: skip
                    found[lag] += read_lines(run_folder / "metrics.jsonl")[WARM:]
    print(f"{STEPS - WARM} steps of 64 × 8 samples a run, {turns} runs each; the server sleeps {DELAY_S} s a token.\n")
    print("| lag | waiting for rollouts, s | training and log-probs, s | refit, s | step, s |\n|---|---|---|---|---|")
    totals = {}
    for lag, lines in found.items():
        seconds = [line["seconds"] for line in lines]
        waiting = statistics.median(one["rollout"] + one["reward"] for one in seconds)
        training = statistics.median(one["train"] + one["log_probs"] for one in seconds)
        refit = statistics.median(one.get("refit", 0.0) for one in seconds)
        totals[lag] = statistics.median(one["total"] for one in seconds)
        print(f"| {lag} | {waiting:.2f} | {training:.2f} | {refit:.3f} | {totals[lag]:.2f} |")
    print(f"\nA step at lag 0 takes {totals[0] / totals[1]:.2f} times one at lag 1.\n", flush=True)
    return True


def crossthink(*words: str) -> None:
    """Run a command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "recipes.cli", *words], cwd=ROOT, env=os.environ, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"crossthink {words[0]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
