"""The engine on one GPU, in one command: speed, MFU, memory, FP8 against bfloat16, parity with transformers.

    .venv/bin/python benchmarks/gpu_check.py [--out gpu_check.json]

With random weights of Qwen2.5's 0.5B and 1.5B shapes: optimizer steps and log-prob passes of `MegatronActor`, as
training runs them, on 32 sequences of 256 prompt and 768 response tokens; in bfloat16 and, where Transformer Engine is
there, in FP8; with and without recomputation. Each case is a process of its own, so that its peak memory is its own.
The loss is the mean negative log-likelihood of the responses, which repeated steps lower. Then, in float32 on a small
model, log-probs and gradient norm against transformers. Where TensorRT-LLM is installed, its engine (docs/trtllm.md)
generates with the 0.5B shape, is refitted through files, and both times its log-probs are held to transformers'. Prints
a table and writes JSON; the exit code is 1 where a case fails or parity is missed. Without a GPU a small shape takes
their place, and it says what was left out.

tokens/s counts prompt and response tokens. MFU counts model FLOPs (`recipes/models/flops.py`); HFU also what the
backward pass computes again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
# As `crossthink` does: OpenMP threads that spin for long while they wait make a busy machine many times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

STEPS = 3  # timed, after one that warms up
LR = 1e-4
PARITY = {"log_prob_difference": 1e-4, "grad_norm_difference": 1e-4}  # the second relative; on a CPU: 1e-6 and 7e-6
ROLLOUT = {"log_prob_difference": 0.05, "log_prob_difference_after_refit": 0.05}  # means, in bfloat16; untried
CASE_SECONDS = 1200


@dataclass(frozen=True)
class Shape:
    """A Qwen2 model, and the batch it is tried on."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    samples: int
    prompt: int
    response: int
    micro_batch_tokens: int

    def config(self) -> Any:
        """As transformers knows it."""
        from transformers import Qwen2Config

        return Qwen2Config(
            hidden_size=self.hidden, intermediate_size=self.mlp, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads, vocab_size=self.vocabulary,
            tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )  # fmt: skip


SHAPES = {
    "small": Shape(128, 256, 3, 4, 2, 2048, 4, 16, 48, 128),
    "0.5B": Shape(896, 4864, 24, 14, 2, 151_936, 32, 256, 768, 16_384),
    "1.5B": Shape(1536, 8960, 28, 12, 2, 151_936, 32, 256, 768, 16_384),
}


@dataclass(frozen=True)
class Case:
    """One row of the table; `number_format` is float32, bfloat16 or fp8."""

    shape: str
    number_format: str
    recompute: str

    @property
    def name(self) -> str:
        """`shape/number_format/recompute`, as the table shows it."""
        return f"{self.shape}/{self.number_format}/{self.recompute}"


def plan(gpu: bool, fp8: bool) -> tuple[list[Case], list[str]]:
    """The cases that this machine can run, and what is left out."""
    if not gpu:
        cases = [Case("small", form, mode) for form in ("float32", "bfloat16") for mode in ("none", "full")]
        return cases, ["the 0.5B and 1.5B shapes (no GPU)", "FP8 (no GPU)", "MFU (no published peak of a CPU)"]
    formats = ("bfloat16", "fp8") if fp8 else ("bfloat16",)
    cases = [Case(shape, form, mode) for shape in ("0.5B", "1.5B") for form in formats for mode in ("none", "full")]
    return cases, [] if fp8 else ["FP8 (needs Transformer Engine and a GPU of compute capability 8.9)"]


def main() -> int:
    """Run every case and the parity check. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="gpu_check.json", help="where the figures are written")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.case == "rollout":
        print(json.dumps(rollout(Path(words.folder))))
        return 0
    if words.case:
        measure = parity if words.case == "parity" else partial(speed, Case(*words.case.split("/")))
        print(json.dumps(alone(measure, Path(words.folder))))
        return 0
    import torch

    from crossthink.files import write_json
    from recipes.actors.mcore.precision import has_transformer_engine
    from recipes.machine import cpu_model

    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"CPU ({cpu_model()}, {os.cpu_count()} cores)"
    fp8 = gpu and has_transformer_engine() and torch.cuda.get_device_capability() >= (8, 9)
    cases, left_out = plan(gpu, fp8)
    missing = [name for name in ("tensorrt_llm", "ray") if importlib.util.find_spec(name) is None]
    generates = gpu and not missing
    if not generates:
        left_out.append(f"rollouts with TensorRT-LLM ({'no GPU' if not gpu else f'no {missing[0]} here'})")
    print(f"{device}, torch {torch.__version__}\n")
    rows, failed = [], []
    print("\n".join(table_head()), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            found = in_its_own_process(case.name, Path(scratch) / case.shape)
            row = {**asdict(case), **found}
            baseline = next((r for r in rows if r["shape"] == case.shape and "loss" in r), None)
            if case.number_format == "fp8" and baseline and "loss" in row:
                row["loss_difference"] = relative(row["loss"], baseline["loss"])
            rows.append(row)
            failed += [case.name] * ("error" in row)
            print(table_row(row), flush=True)
        equal = in_its_own_process("parity", Path(scratch) / "parity")
        served = in_its_own_process("rollout", Path(scratch) / "0.5B") if generates else None
    missed = out_of(equal, PARITY)
    print(f"\nfloat32 against transformers: {json.dumps(equal)} ({'MISSED' if missed else 'equal'})")
    if served:
        missed |= out_of(served, ROLLOUT)
        print(f"TensorRT-LLM: {json.dumps(served)} ({'MISSED' if out_of(served, ROLLOUT) else 'equal'})")
    if left_out:
        print(f"Left out: {'; '.join(left_out)}.")
    write_json(
        Path(words.out),
        {
            "device": device, "torch": torch.__version__, "cases": rows, "parity": equal, "rollout": served,
            "left_out": left_out,
        },
    )  # fmt: skip
    print(f"Written to {words.out}.")
    return 1 if failed or missed else 0


def out_of(found: dict[str, Any], limits: dict[str, float]) -> bool:
    """Whether a check failed, or found more than is allowed."""
    return "error" in found or any(found[name] > limit for name, limit in limits.items())


def in_its_own_process(case: str, folder: Path) -> dict[str, Any]:
    """What a case finds, or its last words as `error`."""
    words = [sys.executable, __file__, "--case", case, "--folder", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=CASE_SECONDS)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def alone(measure: Any, folder: Path) -> dict[str, Any]:
    """`measure(mesh, folder)` in a mesh of one rank."""
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.quiet import quiet_libraries

    quiet_libraries()
    mesh = join_mesh(1, 1)
    try:
        return measure(mesh, folder)
    finally:
        leave_mesh()


def speed(case: Case, mesh: Any, folder: Path) -> dict[str, Any]:
    """Seconds, tokens/s, TFLOP/s, MFU, peak memory and loss of a case."""
    import torch

    from conf.actor import ActorConfig
    from recipes.models import flops
    from recipes.models.families import read_shape
    from recipes.models.peaks import peak_tflops
    from recipes.rl.throughput import peak_memory_mb

    shape = SHAPES[case.shape]
    write_random_model(shape, folder)
    fp8 = case.number_format == "fp8"
    settings = ActorConfig(
        dtype="bfloat16" if fp8 else case.number_format, fp8="current" if fp8 else "off", recompute=case.recompute
    )
    actor = build_actor(shape, folder, mesh, settings)
    samples = random_samples(shape)
    actor.log_probs(samples)
    log_probs_s = statistics.median(seconds(lambda: actor.log_probs(samples)) for _ in range(STEPS))
    results, times = [], []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        results.append(actor.train_step(samples, mean_nll, LR))
        times.append(time.perf_counter() - started)
    train_s = statistics.median(times[1:])
    sizes = read_shape(shape.config().to_dict(), case.shape)
    pair = (shape.prompt, shape.response)
    train, again = flops.train_flops(sizes, *pair), flops.recomputed_flops(sizes, *pair, case.recompute)
    forward = flops.log_prob_flops(sizes, *pair)
    peak = peak_tflops(torch.cuda.get_device_name(), case.number_format) if mesh.device.type == "cuda" else None
    tflops = {
        "train": shape.samples * train / train_s / 1e12,
        "log_probs": shape.samples * forward / log_probs_s / 1e12,
    }
    tokens = shape.samples * sum(pair)
    return {
        "train_s": train_s,
        "train_tokens_per_second": tokens / train_s,
        "log_probs_s": log_probs_s,
        "log_probs_tokens_per_second": tokens / log_probs_s,
        "tflops": tflops,
        "mfu": tflops["train"] / peak if peak else None,
        "hfu": tflops["train"] * (train + again) / train / peak if peak else None,
        "peak_memory_mb": peak_memory_mb(),
        "loss": [result.sums["loss"] for result in results],
        "grad_norm": [result.grad_norm for result in results],
    }


def parity(mesh: Any, folder: Path) -> dict[str, float]:
    """The engine in float32 on the small shape against transformers, one sequence at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    from conf.actor import ActorConfig

    shape = SHAPES["small"]
    write_random_model(shape, folder)
    samples = random_samples(shape)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(mesh.device)
    wanted = []
    for sample in samples:
        ids_t = torch.tensor(sample.token_ids, device=mesh.device)
        logits_tv = model(ids_t[None]).logits[0]
        labels_n = ids_t[sample.prompt_length :, None]
        log_probs_n = logits_tv.log_softmax(-1)[sample.prompt_length - 1 : -1].gather(1, labels_n)[:, 0]
        (-(log_probs_n * sample.per_token["weights"].to(mesh.device)).sum()).backward()
        wanted.append(log_probs_n.detach().cpu())
    norm = float(sum(p.grad.double().square().sum() for p in model.parameters()) ** 0.5)
    actor = build_actor(shape, folder, mesh, ActorConfig(dtype="float32", transformer_engine=False))
    found = actor.log_probs(samples)
    result = actor.train_step(samples, mean_nll, lr=0.0)
    return {
        "log_prob_difference": max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)),
        "grad_norm_difference": abs(result.grad_norm - norm) / norm,
    }


def rollout(folder: Path) -> dict[str, float]:
    """TensorRT-LLM's engine on the 0.5B shape; see gpu_rollout.py."""
    import gpu_rollout

    shape = SHAPES["0.5B"]
    write_random_model(shape, folder)
    prompts = [tuple(sample.token_ids[: shape.prompt]) for sample in random_samples(shape)]
    return gpu_rollout.measure(folder, prompts, shape.response, shape.vocabulary)


def write_random_model(shape: Shape, folder: Path) -> None:
    """A Hugging Face folder with random weights, unless an earlier case wrote it."""
    if (folder / "config.json").is_file():
        return
    import torch
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(0)
    Qwen2ForCausalLM(shape.config()).to(torch.bfloat16).save_pretrained(folder)


def build_actor(shape: Shape, folder: Path, mesh: Any, settings: Any) -> Any:
    """The policy engine, as a training run builds it."""
    from conf.actor import OptimizerConfig
    from recipes.actors.megatron.actor import MegatronActor

    return MegatronActor(
        folder,
        mesh,
        OptimizerConfig(),
        vocabulary=shape.vocabulary,
        pad_id=0,
        temperature=1.0,
        micro_batch_tokens=shape.micro_batch_tokens,
        seed=0,
        with_reference=False,
        settings=settings,
    )


def random_samples(shape: Shape) -> list[Any]:
    """Random ids; the weights make the loss a mean over all response tokens."""
    import torch

    from recipes.actors.interface import TokenizedSample

    draw = torch.Generator().manual_seed(0)
    weights = torch.full((shape.response,), 1.0 / (shape.samples * shape.response))
    return [
        TokenizedSample(
            torch.randint(0, shape.vocabulary, (shape.prompt + shape.response,), generator=draw).tolist(),
            shape.prompt,
            {"weights": weights},
        )
        for _ in range(shape.samples)
    ]


def mean_nll(log_probs_bt: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """The mean negative log-likelihood of the response tokens."""
    return -(log_probs_bt * batch.per_token_bt["weights"].to(log_probs_bt.device)).sum(), {}


def seconds(call: Any) -> float:
    """Of one call that ends with its results on the CPU, so that nothing is still under way on the device."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def relative(found: Sequence[float], wanted: Sequence[float]) -> float:
    """The largest relative difference of two curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, wanted, strict=True))


def table_head() -> Iterator[str]:
    """The table's first two lines."""
    names = (
        "shape", "format", "recompute", "train, s", "tokens/s", "TFLOP/s", "MFU", "HFU", "log-probs, s", "tokens/s",
        "peak, MB", "first and last loss", "FP8 against bf16",
    )  # fmt: skip
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)


def table_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [row["shape"], row["number_format"], row["recompute"]]
    if "error" in row:
        return "| " + " | ".join([*cells, f"failed: {row['error']}"]) + " |"

    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    cells += [
        f"{row['train_s']:.3f}", f"{row['train_tokens_per_second']:.0f}", f"{row['tflops']['train']:.3g}",
        share(row["mfu"]), share(row["hfu"]), f"{row['log_probs_s']:.3f}",
        f"{row['log_probs_tokens_per_second']:.0f}",
        f"{row['peak_memory_mb']:.0f}", f"{row['loss'][0]:.4f}, {row['loss'][-1]:.4f}",
        share(row.get("loss_difference")),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
