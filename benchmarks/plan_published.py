"""`crossthink plan` against published step times of GRPO: the table in docs/plan.md.

    .venv/bin/python benchmarks/plan_published.py [--phases] [--fit] [KEY=VALUE ...]

The published rows are NeMo-RL's (docs/about/performance-summary.md, DGX H100, bfloat16, Megatron-core and vLLM,
OpenMathInstruct-2): 64 prompts × 32 samples, four optimizer steps of 512, 4096 tokens, two log-prob passes (the
reference's and the policy's own). Layouts are those of the page and of its recipes (examples/configs/recipes/llm):
packed micro-batches of 4096 tokens, full recomputation for Llama-3.1-8B and none for Qwen3-32B, vLLM's cache in 0.6 of
the memory where it shares the GPU and in 0.8 where it does not. The page gives the mean response; the mean prompt
follows from its tokens/s a GPU, which count both. A gate is the bound that NeMo-RL's own test asserts; its mean lengths
are not published, so those of `GATE_TOKENS` are assumed.

Every row is planned with the same `efficiency.*`: the defaults of conf/plan.py, or KEY=VALUE of this command.
`--phases` adds the planned seconds by phase; `--fit` chooses the values of `FITTED` on all rows, and on one model's
rows alone to plan the other's. Nothing is run on a GPU.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from conf.compose import resolve
from conf.plan import EfficiencyConfig, PlanConfig
from recipes.planning.interface import Job
from recipes.planning.job import make_job
from recipes.planning.timing import Estimate, estimate

PROMPTS, SAMPLES, UPDATES, CONTEXT, MICRO_BATCH = 64, 32, 4, 4096, 4096
GATE_TOKENS = (110, 600)
"""Prompt and response tokens of a mean sample of Qwen2.5-7B-Instruct. [assumed]"""

FLAGS = ("--phases", "--fit")
FITTED = {
    "train": (0.4, 0.45, 0.5, 0.55, 0.6),
    "log_probs": (0.45, 0.5, 0.55, 0.6),
    "decode": (0.5, 0.6, 0.7),
    "decode_overhead_ms": (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
}
"""Keys of `efficiency` and the values that `--fit` tries."""

_LLAMA_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# config.json of the models, as they are published.
MODELS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 500000.0,
        "rope_scaling": _LLAMA_ROPE, "tie_word_embeddings": False,
    },
    "Qwen3-32B": {
        "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rope_theta": 1000000.0, "tie_word_embeddings": False,
    },
    "Qwen2.5-7B": {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A published run.

    Attributes:
        model: a key of `MODELS`.
        source: release of NeMo-RL, or its test.
        actor_nodes: of eight H100.
        rollout_nodes: of eight H100; 0: rollouts share the actor's GPUs.
        layout: tensor and pipeline parallel size in training.
        engine: tensor-parallel size in generation.
        recompute: of activations.
        response: mean tokens of a response.
        rate: tokens/s a GPU, which count prompts too; 0: not published.
        seconds: of a step.
        gate: the seconds are an upper bound.
    """

    model: str
    source: str
    actor_nodes: int
    rollout_nodes: int
    layout: tuple[int, int]
    engine: int
    recompute: str
    response: int
    rate: float
    seconds: float
    gate: bool = False

    @property
    def gpus(self) -> int:
        """Of actor and rollout nodes, eight a node."""
        return 8 * (self.actor_nodes + self.rollout_nodes)

    @property
    def prompt(self) -> int:
        """Mean tokens of a prompt: what the published rate counts beside the responses."""
        if not self.rate:
            return GATE_TOKENS[0]
        return round(self.rate * self.gpus * self.seconds / (PROMPTS * SAMPLES)) - self.response


ROWS = (
    Row("Llama-3.1-8B", "v0.5", 2, 0, (1, 2), 1, "full", 1019, 1581, 92.8),
    Row("Llama-3.1-8B", "v0.4", 2, 0, (1, 2), 1, "full", 1060, 1562, 97.7),
    Row("Llama-3.1-8B", "v0.5", 1, 1, (1, 2), 1, "full", 1123, 2478, 64.8),
    Row("Llama-3.1-8B", "v0.4", 1, 1, (1, 2), 1, "full", 1129, 2161, 74.6),
    Row("Qwen3-32B", "v0.5", 4, 0, (4, 4), 4, "none", 3251, 571, 376.0),
    Row("Qwen3-32B", "v0.4", 4, 0, (4, 4), 4, "none", 3206, 540, 393.0),
    Row("Qwen3-32B", "v0.5", 4, 4, (4, 4), 4, "none", 3252, 538, 200.0),
    Row("Qwen3-32B", "v0.4", 4, 4, (4, 4), 4, "none", 3207, 494, 215.0),
    Row("Qwen2.5-7B", "test", 4, 0, (2, 1), 4, "none", GATE_TOKENS[1], 0, 50.0, gate=True),
)


def words(row: Row, folder: Path) -> list[str]:
    """The row's settings as words of `crossthink plan`, with the model's config.json in `folder`."""
    tensor, pipeline = row.layout
    apart = row.rollout_nodes > 0
    found = [
        f"model={folder}",
        "gpu=h100",
        f"nodes.actor={row.actor_nodes}",
        f"nodes.rollout={row.rollout_nodes}",
        f"prompts_per_step={PROMPTS}",
        f"samples_per_prompt={SAMPLES}",
        f"updates_per_rollout={UPDATES}",
        f"micro_batch_tokens={MICRO_BATCH}",
        f"mean_prompt_tokens={row.prompt}",
        f"mean_response_tokens={row.response}",
        f"max_response_tokens={CONTEXT - row.prompt}",
        f"actor.tensor_parallel={tensor}",
        f"actor.pipeline_parallel={pipeline}",
        f"actor.sequence_parallel={str(row.model == 'Qwen3-32B').lower()}",
        f"actor.recompute={row.recompute}",
        "rollout=trtllm",
        f"rollout.servers={(8 * row.rollout_nodes or row.gpus) // row.engine}",
        f"rollout.trtllm.tensor_parallel={row.engine}",
        "rollout.trtllm.max_batch_size=1024",
        # 0.6 or 0.8 of 79 GiB, less 16.4 GB of weights, over what the weights leave.
        f"rollout.trtllm.kv_cache_fraction={0.75 if apart else 0.5}",
        f"rollout.colocated={str(not apart).lower()}",
    ]
    return [*found, "rollout.lag=1", "algorithm.importance_cap=2.0"] if apart else found


@lru_cache
def job_of(row: Row, overrides: tuple[str, ...] = ()) -> Job:
    """The row as a job; its config is a `PlanConfig`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(MODELS[row.model]), "utf-8")
        return make_job(resolve("plan", PlanConfig, [*words(row, Path(folder)), *overrides]))


def planned(row: Row, overrides: tuple[str, ...] = ()) -> Estimate:
    """What `crossthink plan` says of the row."""
    job = job_of(row, overrides)
    return estimate(job, job.config.efficiency)


def error(row: Row, found: Estimate) -> float:
    """Planned over published, less 1."""
    return found.step_s / row.seconds - 1


def fit_errors() -> None:
    """Choose `FITTED` anew on all rows, and on one model's rows alone to plan the other's: what the fit is worth."""
    timed = [(row, job_of(row)) for row in ROWS if not row.gate]
    tried = []
    for values in itertools.product(*FITTED.values()):
        efficiency = EfficiencyConfig(**dict(zip(FITTED, values, strict=True)))
        tried.append((efficiency, {row: error(row, estimate(job, efficiency)) for row, job in timed}))
    print("\n| chosen on | " + " | ".join(FITTED) + " | error there | error on the other rows |")
    print("|---|" + "---|" * (len(FITTED) + 2))
    for chosen_on in ("all rows", "Llama-3.1-8B", "Qwen3-32B"):
        ours = [row for row, _ in timed if chosen_on in ("all rows", row.model)]
        others = [row for row, _ in timed if row not in ours]
        best, errors = min(tried, key=lambda one, rows=ours: root_mean_square([one[1][row] for row in rows]))
        shown = f"{root_mean_square([errors[row] for row in others]):.0%}" if others else ""
        values = " | ".join(f"{getattr(best, key):g}" for key in FITTED)
        print(f"| {chosen_on} | {values} | {root_mean_square([errors[row] for row in ours]):.0%} | {shown} |")


def root_mean_square(values: Sequence[float]) -> float:
    """Of errors."""
    return math.sqrt(sum(one**2 for one in values) / len(values))


def main(arguments: Sequence[str]) -> int:
    """Print the table. Returns the exit code: 1 where the plan of a gate is above it."""
    overrides = tuple(word for word in arguments if word not in FLAGS)
    head = (
        "model",
        "from",
        "H100",
        "policy",
        "prompt + response",
        "published, s",
        "planned, s",
        "error",
        "tokens/s/GPU",
    )
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    plans = [(row, planned(row, overrides)) for row in ROWS]
    for row, found in plans:
        policy = "1 step off" if row.rollout_nodes else "on-policy"
        said = f"< {row.seconds:g}" if row.gate else f"{row.seconds:g}"
        shown = ("holds" if error(row, found) < 0 else "misses") if row.gate else f"{error(row, found):+.0%}"
        lengths = f"{row.prompt} + {row.response}" + (" (assumed)" if row.gate else "")
        print(
            f"| {row.model} | {row.source} | {row.gpus} | {policy} | {lengths} | {said} | {found.step_s:.1f} | {shown} "
            f"| {found.tokens_per_second_per_gpu:,.0f} |"
        )
    timed = [error(row, found) for row, found in plans if not row.gate]
    largest = max(map(abs, timed))
    print(
        f"\n{len(timed)} published steps: root mean square error {root_mean_square(timed):.0%}, largest {largest:.0%}."
    )
    if "--phases" in arguments:
        print("\n| model | from | H100 | rollout, s | log_probs, s | train, s | refit, s | MFU of train |")
        print(f"|{'---|' * 8}")
        for row, found in plans:
            spent = {phase.phase: phase.total for phase in found.phases}
            cells = " | ".join(f"{spent[name]:.1f}" for name in ("rollout", "log_probs", "train", "refit"))
            print(f"| {row.model} | {row.source} | {row.gpus} | {cells} | {found.mfu:.0%} |")
    if "--fit" in arguments:
        fit_errors()
    return int(any(row.gate and error(row, found) >= 0 for row, found in plans))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
