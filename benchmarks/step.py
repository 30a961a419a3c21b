"""A training step against TRL's GRPOTrainer, growth with the number of tokens, and padding: on this machine's CPU.

    .venv/bin/python benchmarks/step.py [--only trl|tail|growth|padding] [--turns 3]

`trl`: both systems train the same random Qwen2 (one folder) with GRPO: the same prompts, all of one length, group size,
learning rate, clipping, Adam's settings, float32, threads; responses of exactly the same length (no id ends one); a
reward computed in the process. TRL stands in `.venv-trl`, which the first run installs (benchmarks/step_trl.txt with
constraints.txt). Each system's micro-batches are tried at three sizes in processes of their own, and the fastest stays.
Then the two take turns of two steps, because a shared machine's speed swings. Phases are medians over all their steps;
the ratio is that of the medians, TRL's over ours, so above 1 ours is faster. Peak memory is the process's resident
high-water mark, libraries included. Generation is TRL's transformers backend: vLLM needs a GPU.

`tail`: the same comparison at long-tailed lengths: any token may end a response, so that they have about 48 tokens in
the mean and up to 384. Our engine takes samples out as they end; TRL's generates until the last has ended.

`growth`: seconds of a step of ours at four numbers of samples, each double the last, and the slope of their logarithms.

`padding`: the share of padding in micro-batches of responses of 400 to 700 tokens under a cap of 5000.

The exit code is 1 where a target is missed: 0.9 times TRL in samples/s, 2 times at long-tailed lengths, slope 0.9 to
1.1, padding 5 %.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from step_workers import Case, Model, model_folder, started, take_turns

STEPS = 2  # in a turn
TRIAL_TURNS = 2  # of one step, after one that warms up
MIN_RATIO, MIN_TAIL_RATIO, SLOPE, MAX_PADDING = 0.9, 2.0, (0.9, 1.1), 0.05
PHASES = ("generation", "log-probs", "training", "refit")

TINY, LARGER = Model("0.57 M", 128, 312, 3), Model("4.8 M", 256, 768, 6)
COMPARED = (
    (TINY, 16, 48, 0.0),
    (TINY, 16, 48, 0.001),
    (TINY, 32, 96, 0.0),
    (LARGER, 16, 48, 0.0),
)  # model, prompts, response tokens, KL coefficient
TAIL = ((TINY, 32, 384, 0.0),)
TAIL_MEAN = 48
GROWTH = tuple(Case(LARGER, prompts, 64, micro_batch=32, generation_batch=64) for prompts in (8, 16, 32, 64))
PADDED_SAMPLES, SHORTEST, LONGEST, CAP = 1024, 400, 700, 5000


def main() -> int:
    """Run what was asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("trl", "tail", "growth", "padding"), help="one part")
    parser.add_argument("--turns", type=int, default=3, help=f"timed turns of {STEPS} steps of each process")
    parser.add_argument("--threads", type=int, default=Case.threads, help="CPU threads of each process")
    words = parser.parse_args()
    import torch

    from recipes.machine import cpu_model

    print(
        f"{cpu_model()}, {os.cpu_count()} cores, {words.threads} threads, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f} before\n"
    )
    kept = []
    if words.only in (None, "trl"):
        kept.append(against_trl(COMPARED, MIN_RATIO, words.turns, words.threads))
    if words.only in (None, "tail"):
        kept.append(against_trl(TAIL, MIN_TAIL_RATIO, words.turns, words.threads, TAIL_MEAN))
    if words.only in (None, "growth"):
        kept.append(growth([replace(case, threads=words.threads) for case in GROWTH], words.turns))
    if words.only in (None, "padding"):
        kept.append(padding())
    return 0 if all(kept) else 1


def against_trl(
    compared: Sequence[tuple[Model, int, int, float]], target: float, turns: int, threads: int, mean: int | None = None
) -> bool:
    """The comparison's table. True where every case reaches the target."""
    names = ("model", "samples", "response", "KL", "system", "micro-batch", "samples/s", *(f"{p}, s" for p in PHASES))
    print_row(*names, "step, s", "peak, MB")
    print("|---" * (len(names) + 2) + "|", flush=True)
    ratios = []
    for model, prompts, response_tokens, kl in compared:
        samples = Case(model, prompts, response_tokens, 1, 1).samples
        tries = [
            Case(model, prompts, response_tokens, size, samples, kl, threads=threads, mean_tokens=mean)
            for size in (samples // 4, samples // 2, samples)
        ]
        with model_folder(model) as folder:
            chosen = {system: fastest(system, tries, folder) for system in ("ours", "trl")}
            with started("ours", chosen["ours"], folder) as ours, started("trl", chosen["trl"], folder) as trl:
                found = dict(zip(chosen, take_turns([ours, trl], turns, STEPS), strict=True))
        for system, case in chosen.items():
            print_case(case, system, found[system])
        ratios.append(found["trl"]["total"] / found["ours"]["total"])
        print_ratios(found["ours"], found["trl"])
    print(f"\nSamples/s over TRL's: {min(ratios):.2f} to {max(ratios):.2f}; at least {target} is the target.\n")
    return min(ratios) >= target


def fastest(system: str, tries: Sequence[Case], folder: Path) -> Case:
    """The case whose step takes the fewest seconds, the cases taking turns."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(started(system, case, folder)) for case in tries]
        totals = [found["total"] for found in take_turns(workers, TRIAL_TURNS, 1)]
    return tries[totals.index(min(totals))]


def print_case(case: Case, system: str, found: Mapping[str, float]) -> None:
    """A system's row."""
    seconds = [f"{found[phase]:.3f}" if worked(found, phase) else "–" for phase in PHASES]
    print_row(
        case.model.name, f"{case.prompts} × {case.group}", response(case), case.kl or "–",
        {"ours": "CrossThink", "trl": "TRL"}[system], case.micro_batch, f"{case.samples / found['total']:.1f}",
        *seconds, f"{found['total']:.3f}", f"{found['peak_mb']:.0f}",
    )  # fmt: skip


def response(case: Case) -> str:
    """Tokens of a response."""
    return f"~{case.mean_tokens}, ≤ {case.response_tokens}" if case.mean_tokens else str(case.response_tokens)


def print_ratios(ours: Mapping[str, float], trl: Mapping[str, float]) -> None:
    """TRL's medians over ours."""
    phases = [
        f"{trl[phase] / ours[phase]:.2f}" if worked(ours, phase) and worked(trl, phase) else "–" for phase in PHASES
    ]
    total, peak = trl["total"] / ours["total"], trl["peak_mb"] / ours["peak_mb"]
    print_row(*[""] * 4, "TRL / CrossThink", "", f"{total:.2f}", *phases, f"{total:.2f}", f"{peak:.2f}")


def worked(found: Mapping[str, float], phase: str) -> bool:
    """Whether there is something to do in a phase: ours has one for log-probs even where nobody asks for them."""
    return found.get(phase, 0.0) >= 0.0005


def print_row(*cells: object) -> None:
    """A line of a Markdown table."""
    print("|" + "".join(f" {cell} |" if cell != "" else " |" for cell in cells), flush=True)


def growth(cases: Sequence[Case], turns: int) -> bool:
    """Seconds against tokens. True where the slope of their logarithms reaches the target."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(model_folder(cases[0].model))
        workers = [stack.enter_context(started("ours", case, folder)) for case in cases]
        found = take_turns(workers, turns, 1)
    phases = [phase for phase in PHASES if worked(found[0], phase)]
    print_row("tokens in a step", *(f"{phase}, s" for phase in phases), "step, s", "tokens/s")
    print("|---" * (len(phases) + 3) + "|")
    for case, one in zip(cases, found, strict=True):
        seconds = [f"{one[phase]:.3f}" for phase in phases]
        print_row(case.tokens, *seconds, f"{one['total']:.3f}", f"{case.tokens / one['total']:.0f}")
    slope = statistics.linear_regression(
        [math.log(case.tokens) for case in cases], [math.log(one["total"]) for one in found]
    ).slope
    print(f"\nSlope {slope:.2f}; {SLOPE[0]} to {SLOPE[1]} is the target.\n")
    return SLOPE[0] <= slope <= SLOPE[1]


def padding() -> bool:
    """The share of padding at several budgets. True where the default's reaches the target."""
    from conf.train import TrainConfig
    from recipes.rl.throughput import padding as padding_of

    draw = random.Random(0)
    lengths = [draw.randint(SHORTEST, LONGEST) for _ in range(PADDED_SAMPLES)]
    default = TrainConfig.micro_batch_tokens
    print(f"{PADDED_SAMPLES} samples of {SHORTEST} to {LONGEST} tokens, drawn evenly:\n")
    print_row("micro_batch_tokens", "padding")
    print("|---|---|")
    for budget in (CAP, default, 4 * default):
        positions, filler = padding_of(lengths, 1, budget)
        print_row(budget, f"{filler / positions:.2%}")
    print_row(f"each padded to {CAP}", f"{1 - sum(lengths) / CAP / len(lengths):.2%}")
    positions, filler = padding_of(lengths, 1, default)
    print(f"\nAt most {MAX_PADDING:.0%} at the default is the target.\n")
    return filler / positions <= MAX_PADDING


if __name__ == "__main__":
    sys.exit(main())
