"""Bytes of generation: by the local engine, in the actor's process or in a server, and by TensorRT-LLM's servers."""

from __future__ import annotations

import math

from conf.rollout import TrtllmConfig
from recipes.models.families import ModelShape
from recipes.planning.interface import Gpu, Item, Job
from recipes.planning.parameters import all_parameters, hf_tensors, table_parameters
from recipes.planning.weights import BYTES, FLOAT32

# The local engine's sizes; a test holds them to recipes/rollout/local/, which needs torch.
ROW_STEP = 32
COLUMN_STEP = 128
PREFILL_TOKENS = 8192

DRAW_BYTES = 24
"""A logit of a row that draws: itself and its log-prob in float32, probability and cumulative sum in float64
(recipes/rollout/local/sampler.py)."""
FP8_BLOCK = 128
"""Rows and columns that share a float32 scale (recipes/rollout/trtllm/fp8.py)."""
MESSAGES = 3
"""Of a refit at a time: two under way, one filling up (recipes/rollout/refit/collective.py)."""


def kv_bytes_a_token(shape: ModelShape, element: int) -> int:
    """Keys and values of one position in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * element


def longest(job: Job) -> int:
    """Tokens of the longest prompt with the longest response."""
    return job.config.max_prompt_tokens + job.config.max_response_tokens


def local_weights(job: Job) -> Item:
    """The local engine holds the whole model in float32, whatever the actor computes in (local/engine.py)."""
    return Item("rollout weights", all_parameters(job.shape) * FLOAT32, note="rollout=local: the whole model, float32")


def local_generation(job: Job, samples: int) -> list[Item]:
    """Cache and passes of the local engine at its worst moment, bytes.

    Rows and columns are those that `RowCache` takes: all rows are as wide as the longest, in coarse steps, and rows
    move by way of a copy of one layer's keys.

    Args:
        job: the run.
        samples: that one engine is given in a step.
    """
    shape = job.shape
    running = min(job.config.rollout.batch_size, samples)
    rows = math.ceil(running / ROW_STEP) * ROW_STEP
    columns = math.ceil(longest(job) / COLUMN_STEP) * COLUMN_STEP
    cache = rows * columns * kv_bytes_a_token(shape, FLOAT32)
    prompts = max(PREFILL_TOKENS, job.config.max_prompt_tokens)
    prompts = min(prompts, running * job.config.max_prompt_tokens)
    # transformers' MLP: silu(gate), up and their product beside the residual stream twice and its norm.
    prefill = FLOAT32 * prompts * (3 * shape.mlp + 3 * shape.hidden)
    decode = DRAW_BYTES * running * shape.vocabulary + cache / (2 * shape.layers)
    note = f"{rows} rows × {columns} tokens for {running} samples, float32"
    work = Item("prefill", prefill, note=f"{prompts} prompt tokens at a time")
    if decode > prefill:
        work = Item("drawing tokens", decode, note=f"{running} samples side by side")
    return [Item("KV cache", cache, note=note), work]


def trtllm_weight_bytes(shape: ModelShape, ours: TrtllmConfig) -> float:
    """TensorRT-LLM's weights on all GPUs of a server; in FP8 all but tables, norms and biases."""
    element, everything = BYTES[ours.dtype], all_parameters(shape)
    if not ours.fp8_weights:
        return everything * element
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    linear = shape.layers * shape.hidden * (2 * queries + 2 * keys + 3 * shape.mlp)
    return linear * (1 + FLOAT32 / FP8_BLOCK**2) + (everything - linear) * element


def trtllm_kv_bytes(shape: ModelShape, ours: TrtllmConfig) -> float:
    """Cache of a token on one GPU of a server; a head is not cut: ranks beyond their number hold copies."""
    element = 1 if ours.kv_cache_dtype == "fp8" else BYTES[ours.dtype]
    return kv_bytes_a_token(shape, element) / min(ours.tensor_parallel, shape.kv_heads)


def trtllm_pass_bytes(shape: ModelShape, ours: TrtllmConfig) -> float:
    """What the largest forward pass takes on one GPU of a server."""
    work = BYTES[ours.dtype] * ours.max_num_tokens * (3 * shape.hidden + 3 * shape.mlp / ours.tensor_parallel)
    return work + FLOAT32 * ours.max_batch_size * shape.vocabulary


def trtllm_kv_room(shape: ModelShape, gpu: Gpu, ours: TrtllmConfig) -> float:
    """Bytes of the cache on one GPU of a server, whoever else is there; below 0 where the weights leave nothing.

    `kv_cache_fraction` of what weights and a first pass leave of the GPU.
    """
    weights = trtllm_weight_bytes(shape, ours) / ours.tensor_parallel
    return ours.kv_cache_fraction * (gpu.memory_bytes - weights - trtllm_pass_bytes(shape, ours))


def trtllm_weights(job: Job) -> Item:
    """A TensorRT-LLM rank's weights: its tensor-parallel share."""
    ours = job.config.rollout.trtllm
    note = f"FP8, tables in {ours.dtype}" if ours.fp8_weights else ours.dtype
    return Item("rollout weights", trtllm_weight_bytes(job.shape, ours) / ours.tensor_parallel, note=note)


def trtllm_generation(job: Job) -> list[Item]:
    """What a TensorRT-LLM rank holds beside its weights: a cache of at least one longest response, and its passes.

    Args:
        job: of GPUs.
    """
    assert job.gpu is not None, "TensorRT-LLM needs GPUs"
    ours, shape = job.config.rollout.trtllm, job.shape
    a_sample = longest(job) * trtllm_kv_bytes(shape, ours)
    cache = max(trtllm_kv_room(shape, job.gpu, ours), a_sample)
    note = f"kv_cache_fraction={ours.kv_cache_fraction:g}: {int(cache / a_sample)} samples of {longest(job)} tokens"
    work = trtllm_pass_bytes(shape, ours)
    return [
        Item("KV cache", cache, note=note),
        Item("rollout passes", work, "assumed", f"{ours.max_num_tokens} tokens at a time"),
    ]


def gathered_tensors(job: Job) -> Item:
    """Whole Hugging Face tensors that each rank makes for a refit, one after the other (mcore/export_weights.py).

    Of each: the tensor, the ranks' parts as they arrive, this rank's own part; beside the tensor before, which is let
    go when the next is there. One rank alone yields views of its own weights.
    """
    element, t = BYTES[job.config.actor.dtype or "float32"], job.tensor
    if t == job.pipeline == 1:
        return Item("gathered tensors", 0.0)
    most, before = 0.0, 0
    for elements, shared in hf_tensors(job.shape):
        parts = 1 + 1 / t if shared and t > 1 else 0.0
        most = max(most, before + elements * (1 + parts))
        before = elements
    return Item("gathered tensors", most * element, note="whole tensors, one at a time")


def messages(job: Job) -> Item:
    """Of the sender of a refit, the actor's first rank, or of a server."""
    return Item("refit messages", MESSAGES * job.config.rollout.bucket_mb * 2**20, note="rollout.bucket_mb")


def landing(job: Job) -> Item:
    """The largest tensor whole, which a server casts or cuts into weights of its own."""
    element = BYTES[job.config.actor.dtype or "float32"]
    return Item("arriving tensors", element * table_parameters(job.shape), note="the largest, whole")
