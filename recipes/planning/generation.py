"""How long a rollout takes: prompts are read at the speed of matrix products, tokens drawn at that of the memory.

A decode step reads all weights once for every sample under way, or multiplies them with so many samples that the
products take longer: the larger of the two counts (a roofline). Each sample reads its own KV cache on top of it. The
batch empties towards the end, when few long samples keep the whole model busy.
"""

from __future__ import annotations

from dataclasses import dataclass

from conf.plan import EfficiencyConfig
from conf.rollout import TrtllmConfig
from recipes.models import flops
from recipes.models.families import ModelShape
from recipes.planning.communication import COLLECTIVE_LATENCY_S
from recipes.planning.gpus import peak_flops
from recipes.planning.interface import Gpu, Item, Job, PhaseTime
from recipes.planning.lengths import busy_steps, longest_share, response_lengths
from recipes.planning.parameters import all_parameters, table_parameters
from recipes.planning.rollout_memory import (
    kv_bytes_a_token,
    trtllm_kv_bytes,
    trtllm_kv_room,
    trtllm_weight_bytes,
)
from recipes.planning.weights import BYTES


@dataclass(frozen=True)
class Server:
    """One of those that share a rollout: a server, or a rank of the actor that generates by itself.

    Attributes:
        gpus: of it.
        number_format: of its matrix products: float32, bfloat16 or fp8.
        weight_bytes: read in a decode step, all its GPUs together.
        kv_bytes: of one token in all layers, all its GPUs together; heads that GPUs share count on each.
        slots: samples side by side; of one that has no room for a single one less than 1.
        shares_prompts: a prompt is read once for its group.
    """

    gpus: int
    number_format: str
    weight_bytes: float
    kv_bytes: float
    slots: int
    shares_prompts: bool


@dataclass(frozen=True)
class DecodeCosts:
    """Seconds of a server's work, by what they are for.

    Attributes:
        prefill_s: a prompt is read.
        fixed_s: of a decode step, whatever runs: scheduling, kernel launches, all-reduces.
        weights_s: of a decode step: the weights are read.
        sample_s: of a decode step, for each sample: its products.
        kv_token_s: of a decode step, for each token in the KV cache: it is read.
    """

    prefill_s: float
    fixed_s: float
    weights_s: float
    sample_s: float
    kv_token_s: float


def server_of(job: Job) -> Server:
    """One server of the job's `rollout.*`, or one rank."""
    assert job.gpu is not None
    rollout, shape = job.config.rollout, job.shape
    if rollout.name == "local":
        # transformers' modules in float32: recipes/rollout/local/engine.py
        element = BYTES["float32"]
        read = (all_parameters(shape) - looked_up(shape)) * element
        return Server(1, "float32", read, kv_bytes_a_token(shape, element), rollout.batch_size, True)
    return trtllm_server(shape, job.gpu, rollout.trtllm, job.prompt + job.response)


def trtllm_server(shape: ModelShape, gpu: Gpu, ours: TrtllmConfig, tokens: int) -> Server:
    """A server of TensorRT-LLM. It lets samples in as long as the cache has room (recipes/rollout/trtllm/options.py).

    Args:
        shape: the model's.
        gpu: all of its GPUs.
        ours: `rollout.trtllm`.
        tokens: that a mean sample has in the cache at its end.
    """
    gpus, kv_bytes = ours.tensor_parallel, trtllm_kv_bytes(shape, ours)
    read = trtllm_weight_bytes(shape, ours) - looked_up(shape) * BYTES[ours.dtype]
    slots = int(min(ours.max_batch_size, trtllm_kv_room(shape, gpu, ours) / (kv_bytes * tokens)))
    return Server(gpus, "fp8" if ours.fp8_weights else ours.dtype, read, gpus * kv_bytes, slots, ours.prefix_reuse)


def looked_up(shape: ModelShape) -> int:
    """Parameters that no decode step reads as a whole: the embedding, where it is not the head, too."""
    return 0 if shape.tied else table_parameters(shape)


def decode_costs(
    shape: ModelShape,
    gpu: Gpu,
    server: Server,
    prompt: int,
    efficiency: EfficiencyConfig,
    all_reduce_s: float = COLLECTIVE_LATENCY_S,
) -> DecodeCosts:
    """What a server's work costs.

    Args:
        shape: the model's.
        gpu: all of its GPUs.
        server: see `Server`.
        prompt: tokens of a prompt.
        efficiency: shares of the peaks.
        all_reduce_s: of one all-reduce among its GPUs, of which a decode step has two a layer.
    """
    bandwidth = server.gpus * gpu.bandwidth * efficiency.decode
    speed = server.gpus * product_speed(gpu, server.number_format, efficiency.prefill, efficiency)
    all_reduces_s = 2 * shape.layers * all_reduce_s if server.gpus > 1 else 0.0
    return DecodeCosts(
        prefill_s=flops.prefill_flops(shape, prompt) / speed,
        fixed_s=efficiency.decode_overhead_ms / 1e3 + all_reduces_s,
        weights_s=server.weight_bytes / bandwidth,
        sample_s=(flops.body_flops(shape, 1, 0) + flops.head_flops(shape, 1)) / speed,
        kv_token_s=server.kv_bytes / bandwidth,
    )


def rollout_time(job: Job, efficiency: EfficiencyConfig) -> PhaseTime:
    """Seconds until the last sample of the batch is drawn, on the server that has it."""
    assert job.gpu is not None
    server, count, config = server_of(job), job.servers or job.world, job.config
    samples = config.prompts_per_step * config.samples_per_prompt
    lengths = response_lengths(job.response, config.length_spread, config.max_response_tokens, samples)
    mine = longest_share(lengths, sharing_servers(count, config.prompts_per_step))
    costs = decode_costs(job.shape, job.gpu, server, job.prompt, efficiency)
    slots = max(1, server.slots)  # whether it fits at all is the memory's to say
    steps, cached = decode_seconds(costs, slots, mine, job.prompt)
    prompts = len(mine) / (config.samples_per_prompt if server.shares_prompts else 1)
    where = f"{count} {'servers' if job.served else 'ranks'} of {server.gpus} GPU{'s' * (server.gpus > 1)}"
    many = f"{len(mine)} samples, {min(slots, len(mine))} side by side"
    items = (
        Item("prefill", prompts * costs.prefill_s, "assumed", "efficiency.prefill"),
        Item("decode: weights, products", steps, "assumed", f"{where}; {many}; efficiency.decode, decode_overhead_ms"),
        Item("decode: KV cache", cached, "assumed", "efficiency.decode"),
    )
    return PhaseTime("rollout", items, "actor" if job.generates_here else "rollout")


def sharing_servers(servers: int, prompts: int) -> int:
    """Servers among which the prompts divide so that each has as many as the fullest one; groups stay together."""
    return prompts // -(-prompts // servers)


def decode_seconds(costs: DecodeCosts, slots: int, lengths: list[int], prompt: int) -> tuple[float, float]:
    """Seconds of the decode steps of one server, without and for its KV cache.

    Args:
        costs: of its work.
        slots: samples side by side.
        lengths: response tokens of its samples.
        prompt: tokens before each.
    """
    stepping = sum(
        steps * (max(costs.weights_s, under_way * costs.sample_s) + costs.fixed_s)
        for steps, under_way in busy_steps(lengths, slots)
    )
    cached = sum(flops.causal_pairs(length - 1, before=prompt) for length in lengths)
    return stepping, cached * costs.kv_token_s


def product_speed(gpu: Gpu, number_format: str, share: float, efficiency: EfficiencyConfig) -> float:
    """FLOP/s of one GPU in matrix products that reach `share` of the peak; FP8 reaches `efficiency.fp8` of that."""
    return peak_flops(gpu, number_format) * share * (efficiency.fp8 if number_format == "fp8" else 1.0)
