"""Simulated steps from 8 to 4096 H100 GPUs: tokens/s, efficiency, and where the time goes. Nothing is measured here.

    .venv/bin/python benchmarks/scale.py [--picture docs/scale.png] [--what-if]

Weak scaling: 2 prompts × 8 samples a GPU. Strong scaling: the paper's 128 × 8 samples whatever the size. Three ways to
run each: lag 0 with colocated servers, lag 0 and lag 1 with GPUs of their own for servers, whose number is the best of
those tried. `--what-if` prints instead what one change of an assumption does at a few sizes.

Every constant, and where it is from, stands in docs/scale.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conf.compose import resolve
from conf.plan import PlanConfig
from conf.train import TrainConfig
from recipes.models.families import ModelShape, read_shape
from recipes.planning.gpus import GPUS
from recipes.planning.parameters import all_parameters
from recipes.planning.simulation.costs import Assumed, Split, make_setup
from recipes.planning.simulation.load import Load
from recipes.planning.simulation.steps import Setup, StepTimes, Stragglers, simulate

SIZES = tuple(2**n for n in range(3, 13))
SHOWN = (8, 16, 32, 64, 128, 512, 1024, 4096)
MODELS = {"7B": ("crossthink_7b", 1), "32B": ("crossthink_32b", 4)}  # recipe, GPUs of a server
WAYS = ("lag 0, colocated", "lag 0", "lag 1")
SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)  # of the GPUs, for rollouts
PROMPTS_A_GPU, PAPER_PROMPTS, SAMPLES = 2, 128, 8
PROMPT, MEAN, SPREAD = PlanConfig.mean_prompt_tokens, PlanConfig.mean_response_tokens, PlanConfig.length_spread
STEPS, WARM = 5, 1  # of the chosen split; not counted at either end
SEED = 0
HELD, SHARED = 6, 12  # bytes a parameter: bfloat16 weight and float32 gradient; float32 weight and Adam's two moments
FOR_STATE = 0.8  # share of a GPU's memory; activations take the rest


@dataclass(frozen=True)
class Point:
    """What one way of running came to at one size; seconds are means over its steps.

    Attributes:
        split: the best one tried.
        steps: simulated, without the first and last.
    """

    split: Split
    steps: list[StepTimes]

    @property
    def seconds(self) -> float:
        """Of a mean step."""
        return self.mean("total")

    @property
    def tokens_per_second(self) -> float:
        """Of all steps together, prompts and responses."""
        return sum(one.tokens for one in self.steps) / sum(one.total for one in self.steps)

    def mean(self, name: str) -> float:
        """Mean over the steps of a field of `StepTimes`."""
        return statistics.fmean(getattr(one, name) for one in self.steps)


@dataclass(frozen=True)
class Case:
    """A model, and what does not change with the size."""

    shape: ModelShape
    config: TrainConfig
    server_gpus: int
    assumed: Assumed
    _first_steps: dict[tuple[Split, int], StepTimes] = field(default_factory=dict)

    def setup(self, split: Split, lag: int) -> Setup:
        """What is simulated on H100s with this split, `lag` steps off policy."""
        return make_setup(
            self.shape, GPUS["h100"], split, lag, PROMPT, MEAN, self.config.micro_batch_tokens,
            self.config.actor.recompute, self.assumed,
        )  # fmt: skip

    def load(self, prompts: int) -> Load:
        """A step over so many prompts."""
        return Load(prompts, SAMPLES, PROMPT, MEAN, SPREAD, self.config.max_response_tokens)

    def splits(self, gpus: int, samples: int, colocated: bool) -> Iterator[Split]:
        """Ways to share so many GPUs: whole servers, a sample a data-parallel rank, and memory for its state."""
        actor = self.config.actor
        whole = actor.tensor_parallel * actor.pipeline_parallel
        for share in (0.0,) if colocated else SHARES:
            trained = round(gpus * (1 - share))
            if trained % whole or not trained or (gpus - trained) % self.server_gpus:
                continue
            found = Split(trained, gpus - trained, actor.tensor_parallel, actor.pipeline_parallel, self.server_gpus)
            if found.data <= samples and self._state_bytes(found) <= FOR_STATE * GPUS["h100"].memory_bytes:
                yield found

    def _state_bytes(self, split: Split) -> float:
        model = all_parameters(self.shape) / (split.tensor * split.pipeline)
        return model * (HELD + SHARED / split.data)

    def best(self, way: str, gpus: int, prompts: int) -> Point | None:
        """The split with the shortest steps; None: the model does not fit on so few GPUs."""
        load = self.load(prompts)
        found = list(self.splits(gpus, prompts * SAMPLES, way == WAYS[0]))
        if not found:
            return None
        lag = int(way == "lag 1")
        split = min(found, key=lambda one: self._steady_s(one, lag, prompts)) if len(found) > 1 else found[0]
        batches = [load.batch(SEED, step) for step in range(1, STEPS + 1)]
        return Point(split, simulate(self.setup(split, lag), batches, SEED)[WARM:-WARM])

    def _steady_s(self, split: Split, lag: int, prompts: int) -> float:
        """About what a step takes: one is simulated at lag 0, and its phases put together as the lag has them."""
        if (split, prompts) not in self._first_steps:
            batch = self.load(prompts).batch(SEED, 1)
            self._first_steps[split, prompts] = simulate(self.setup(split, 0), [batch], SEED)[0]
        one = self._first_steps[split, prompts]
        if not lag:
            return one.total
        return max(one.rollout, one.log_probs + one.train) + one.reward + one.refit


def main() -> int:
    """Print the tables; draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="a PNG to write")
    parser.add_argument("--what-if", action="store_true", help="one change of an assumption at a time")
    words = parser.parse_args()
    if words.what_if:
        what_if()
        return 0
    found: dict[tuple[str, str, str], dict[int, Point]] = {}
    for kind in ("weak", "strong"):
        for model in MODELS:
            case = make_case(model, Assumed())
            for way in WAYS:
                points = {gpus: case.best(way, gpus, prompts(kind, gpus)) for gpus in SIZES}
                found[kind, model, way] = {gpus: point for gpus, point in points.items() if point}
            print_table(kind, model, {way: found[kind, model, way] for way in WAYS})
    if words.picture:
        draw(found, words.picture)
    return 0


def make_case(model: str, assumed: Assumed) -> Case:
    """The recipe's own settings."""
    recipe, server_gpus = MODELS[model]
    config = resolve("train", TrainConfig, [f"recipe={recipe}", "out=run"])
    shape = read_shape({"model_type": "qwen2", **config.model.shape}, recipe)
    return Case(shape, config, server_gpus, assumed)


def prompts(kind: str, gpus: int) -> int:
    """Of a step."""
    return PROMPTS_A_GPU * gpus if kind == "weak" else PAPER_PROMPTS


def print_table(kind: str, model: str, ways: dict[str, dict[int, Point]]) -> None:
    """One row a size: the best way of the three in full, the others' seconds of a step."""
    batch = f"{PROMPTS_A_GPU} prompts × {SAMPLES} a GPU" if kind == "weak" else f"{PAPER_PROMPTS} × {SAMPLES}"
    print(f"**{model}, {kind} scaling ({batch}), simulated.** Phases, idle and tail are of lag 1.\n")
    print(
        "| GPUs | step: colocated, s | lag 0, s | lag 1, s | actor + rollout GPUs | rollout, reward, log-probs, train, "
        "refit, s | idle: actor, rollout | tail | tokens/s | efficiency |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    shown = ways["lag 1"]
    for gpus in SHOWN:
        point = shown.get(gpus)
        seconds = " | ".join(f"{points[gpus].seconds:.1f}" if gpus in points else "–" for points in ways.values())
        if point is None:
            print(f"| {gpus} | {seconds} | | | | | | |")
            continue
        phases = ", ".join(f"{point.mean(name):.1f}" for name in ("rollout", "reward", "log_probs", "train", "refit"))
        idle = f"{point.mean('actor_idle'):.0%}, {point.mean('rollout_idle'):.0%}"
        split = f"{point.split.actor} + {point.split.rollout}"
        speed = f"{point.mean('tail'):.0%} | {point.tokens_per_second:,.0f} | {efficiency(shown, gpus):.0%}"
        print(f"| {gpus} | {seconds} | {split} | {phases} | {idle} | {speed} |")
    print(flush=True)


def efficiency(points: dict[int, Point], gpus: int) -> float:
    """Tokens/s of a GPU, against those at the smallest size."""
    first = min(points)
    return points[gpus].tokens_per_second / gpus / (points[first].tokens_per_second / first)


def what_if() -> None:
    """Print seconds of a step where one assumption is another."""
    usual = Assumed()
    others = {
        "as assumed": usual,
        "lengths all the same": usual,
        "servers are dealt all groups at once": usual,
        "no slow servers or ranks": replace(usual, slow_servers=Stragglers(), slow_ranks=Stragglers()),
        "ten times as many slow servers": replace(usual, slow_servers=Stragglers(0.1, 1.5)),
        "batch to ranks and client for nothing": replace(usual, intake_s=0.0, spread_s=0.0),
        "ten reward servers": replace(usual, verdict_s=usual.verdict_s / 10),
        "a refit's seconds a server × 10": replace(usual, server_s=10 * usual.server_s),
        "half the network": replace(usual, efficiency=replace(usual.efficiency, network=usual.efficiency.network / 2)),
        "decode steps without overhead": replace(usual, efficiency=replace(usual.efficiency, decode_overhead_ms=0.0)),
    }
    columns = [("strong", "7B", 64), ("weak", "7B", 1024), ("strong", "32B", 64), ("weak", "32B", 1024)]
    print("Simulated, lag 1: seconds of a step with the split that is best as assumed.\n")
    print("| |" + "".join(f" {model}, {gpus} GPUs, {kind} |" for kind, model, gpus in columns))
    print("|---|" + "---|" * len(columns))
    splits = {}
    for column in columns:
        point = make_case(column[1], usual).best("lag 1", column[2], prompts(column[0], column[2]))
        assert point is not None
        splits[column] = point.split
    for name, assumed in others.items():
        cells = []
        for column in columns:
            kind, model, gpus = column
            case = make_case(model, assumed)
            setup, load = case.setup(splits[column], 1), case.load(prompts(kind, gpus))
            if name == "lengths all the same":
                load = replace(load, spread=0.0)
            if name == "servers are dealt all groups at once":
                setup = replace(setup, share=math.inf)
            steps = simulate(setup, [load.batch(SEED, step) for step in range(1, STEPS + 1)], SEED)[WARM:-WARM]
            cells.append(f" {statistics.fmean(one.total for one in steps):.1f} |")
        print(f"| {name} |" + "".join(cells), flush=True)


def draw(found: dict[tuple[str, str, str], dict[int, Point]], path: Path) -> None:
    """Tokens/s and efficiency against GPUs, weak and strong, both models."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from recipes.reporting.charts import PHASE_COLOURS, STYLE

    lines = {"lag 0, colocated": ":", "lag 0": "--", "lag 1": "-"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(2, 2, sharex=True)
        for column, kind in enumerate(("weak", "strong")):
            above, below = panels[0][column], panels[1][column]
            for colour, model in zip(PHASE_COLOURS, MODELS, strict=False):
                for way, line in lines.items():
                    points = found[kind, model, way]
                    style = {"linestyle": line, "color": colour, "marker": "o", "markersize": 3}
                    above.plot(list(points), [one.tokens_per_second for one in points.values()], **style)
                    shares = [efficiency(points, gpus) for gpus in points]
                    below.plot(list(points), shares, label=f"{model}, {way}", **style)
            batch = (
                f"{PROMPTS_A_GPU} × {SAMPLES} samples a GPU"
                if kind == "weak"
                else f"{PAPER_PROMPTS} × {SAMPLES} samples"
            )
            above.set_title(f"{kind} scaling, simulated: {batch}")
            above.set_yscale("log")
            below.set_ylim(0, 1.25)
            below.set_xlabel("H100 GPUs")
            for axes in (above, below):
                axes.set_xscale("log", base=2)
                axes.set_xticks(SIZES, [str(size) for size in SIZES])
                axes.grid(True)
        panels[0][0].set_ylabel("response tokens/s, simulated")
        panels[1][0].set_ylabel("tokens/s a GPU, of the smallest size's")
        panels[1][1].legend(loc="upper right", fontsize=8)
        figure.savefig(path, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
