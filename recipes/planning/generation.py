"""How long a rollout takes: prompts are read at the speed of matrix products, tokens drawn at that of the memory.

A decode step reads all weights once for every sample under way, or multiplies them with so many samples that the
products take longer: the larger of the two counts (a roofline). Each sample reads its own KV cache on top of it. The
batch empties towards the end, when few long samples keep the whole model busy.
"""

from __future__ import annotations

from dataclasses import dataclass

from conf.plan import EfficiencyConfig
from recipes.models import flops
from recipes.models.families import ModelShape
from recipes.nodes import server_gpus
from recipes.planning.communication import COLLECTIVE_LATENCY_S
from recipes.planning.gpus import peak_flops
from recipes.planning.interface import Gpu, Item, Job, PhaseTime
from recipes.planning.lengths import busy_steps, longest_share, response_lengths
from recipes.planning.parameters import all_parameters, table_parameters
from recipes.planning.rollout_memory import kv_bytes_a_token
from recipes.planning.weights import BYTES


@dataclass(frozen=True)
class Engine:
    """One of the engines that share a rollout.

    Attributes:
        count: engines.
        tensor: GPUs of each.
        number_format: of its matrix products: float32, bfloat16 or fp8.
        weight_bytes: read in a decode step, all its GPUs together.
        kv_bytes: of one token in all layers, all its GPUs together; heads that GPUs share count on each.
        slots: samples side by side.
        shares_prompts: a prompt is read once for its group.
    """

    count: int
    tensor: int
    number_format: str
    weight_bytes: float
    kv_bytes: float
    slots: int
    shares_prompts: bool


def engine_of(job: Job) -> Engine:
    """The engines of the job's `rollout.*` on its GPUs."""
    assert job.gpu is not None
    rollout, shape, tensor = job.config.rollout, job.shape, server_gpus(job.config)
    count = rollout.servers or len(rollout.url) or job.world  # without servers each rank of the actor is one
    read = all_parameters(shape) - (0 if shape.tied else table_parameters(shape))  # the embedding is looked up
    if rollout.name == "local":
        # transformers' modules in float32: recipes/rollout/local/engine.py
        kv_bytes = kv_bytes_a_token(shape, BYTES["float32"])
        return Engine(count, tensor, "float32", read * BYTES["float32"], kv_bytes, rollout.batch_size, True)
    trtllm = rollout.trtllm
    fp8 = trtllm.fp8_weights
    weight_bytes = read * (1 if fp8 else BYTES[trtllm.dtype])
    element = 1 if trtllm.kv_cache_dtype == "fp8" else BYTES[trtllm.dtype]
    kv_bytes = kv_bytes_a_token(shape, element) * max(1, tensor / shape.kv_heads)
    room = trtllm.kv_cache_fraction * (tensor * job.gpu.memory_bytes - weight_bytes)
    slots = int(min(trtllm.max_batch_size, room / (kv_bytes * (job.prompt + job.response))))
    number_format = "fp8" if fp8 else trtllm.dtype
    return Engine(count, tensor, number_format, weight_bytes, kv_bytes, max(1, slots), trtllm.prefix_reuse)


def rollout_time(job: Job, efficiency: EfficiencyConfig) -> PhaseTime:
    """Seconds until the last sample of the batch is drawn, on the engine that has it."""
    assert job.gpu is not None
    engine, config = engine_of(job), job.config
    samples = config.prompts_per_step * config.samples_per_prompt
    lengths = response_lengths(job.response, config.length_spread, config.max_response_tokens, samples)
    mine = longest_share(lengths, sharing_engines(engine.count, config.prompts_per_step))
    steps, cached = decode_seconds(job.gpu, job.shape, engine, mine, job.prompt, efficiency)
    where = f"{engine.count} engines of {engine.tensor} GPU{'s' * (engine.tensor > 1)}"
    slots = f"{len(mine)} samples, {min(engine.slots, len(mine))} side by side"
    items = (
        Item("prefill", prefill_seconds(job, engine, len(mine), efficiency), "assumed", "efficiency.prefill"),
        Item("decode: weights, products", steps, "assumed", f"{where}; {slots}; efficiency.decode, decode_overhead_ms"),
        Item("decode: KV cache", cached, "assumed", "efficiency.decode"),
    )
    return PhaseTime("rollout", items, "rollout" if job.rollout_gpus else "actor")


def sharing_engines(engines: int, prompts: int) -> int:
    """Engines among which the prompts divide so that each has as many as the fullest one; groups stay together."""
    return prompts // -(-prompts // engines)


def prefill_seconds(job: Job, engine: Engine, samples: int, efficiency: EfficiencyConfig) -> float:
    """Seconds in which an engine reads the prompts of its samples."""
    assert job.gpu is not None
    prompts = samples / (job.config.samples_per_prompt if engine.shares_prompts else 1)
    speed = engine.tensor * product_speed(job.gpu, engine.number_format, efficiency.prefill, efficiency)
    return prompts * flops.prefill_flops(job.shape, job.prompt) / speed


def decode_seconds(
    gpu: Gpu, shape: ModelShape, engine: Engine, lengths: list[int], prompt: int, efficiency: EfficiencyConfig
) -> tuple[float, float]:
    """Seconds of the decode steps of one engine, without and for its KV cache.

    Args:
        gpu: it runs on.
        shape: the model's.
        engine: see `Engine`.
        lengths: response tokens of its samples.
        prompt: tokens before each.
        efficiency: shares of the peaks.
    """
    read_s = engine.weight_bytes / engine.tensor / (gpu.bandwidth * efficiency.decode)
    products = flops.body_flops(shape, 1, 0) + flops.head_flops(shape, 1)
    sample_s = products / engine.tensor / product_speed(gpu, engine.number_format, efficiency.prefill, efficiency)
    fixed_s = efficiency.decode_overhead_ms / 1e3
    if engine.tensor > 1:
        fixed_s += 2 * shape.layers * COLLECTIVE_LATENCY_S
    stepping = sum(
        steps * (max(read_s, under_way * sample_s) + fixed_s) for steps, under_way in busy_steps(lengths, engine.slots)
    )
    tokens = sum(flops.causal_pairs(length - 1, before=prompt) for length in lengths)
    cached = tokens * engine.kv_bytes / engine.tensor / (gpu.bandwidth * efficiency.decode)
    return stepping, cached


def product_speed(gpu: Gpu, number_format: str, share: float, efficiency: EfficiencyConfig) -> float:
    """FLOP/s of one GPU in matrix products that reach `share` of the peak; FP8 reaches `efficiency.fp8` of that."""
    return peak_flops(gpu, number_format) * share * (efficiency.fp8 if number_format == "fp8" else 1.0)
