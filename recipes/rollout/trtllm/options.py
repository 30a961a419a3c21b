"""Our settings in TensorRT-LLM's words: the constructor's keywords and each request's sampling parameters."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.rollout import KV_DTYPES, ServeRolloutConfig
from crossthink.errors import ConfigError
from recipes.models.model_folder import read_model_config
from recipes.rollout.interface import Limits, Request, RequestError, SamplingParams
from recipes.rollout.trtllm.fp8 import BLOCK, NOT_QUANTIZED

EXTENSION = "recipes.rollout.trtllm.extension.CrossThinkExtension"
DTYPES = ("bfloat16", "float16")
NEVER = -1
"""An end id that no token has: what ends a response is in the stop ids alone."""
MASKED = -1e9


def check(config: ServeRolloutConfig) -> Limits:
    """Refuse what can never work, before anything starts, and read what the engine will take from the model.

    Raises:
        ConfigError: names the key, its value and what is allowed.
    """
    ours = config.trtllm
    for key in ("tensor_parallel", "max_batch_size", "max_num_tokens"):
        if getattr(ours, key) < 1:
            raise ConfigError(f"trtllm.{key}={getattr(ours, key)} must be at least 1.")
    if not 0 < ours.kv_cache_fraction < 1:
        raise ConfigError(f"trtllm.kv_cache_fraction={ours.kv_cache_fraction:g} must be between 0 and 1.")
    for key, allowed in (("kv_cache_dtype", KV_DTYPES), ("dtype", DTYPES)):
        if getattr(ours, key) not in allowed:
            raise ConfigError(f"trtllm.{key}={getattr(ours, key)}: allowed are {', '.join(allowed)}.")
    assert config.max_prompt_tokens is not None and config.max_total_tokens is not None  # `serve_rollout` decides them
    if config.max_prompt_tokens > ours.max_num_tokens:
        raise ConfigError(
            f"max_prompt_tokens={config.max_prompt_tokens} is more than trtllm.max_num_tokens={ours.max_num_tokens}: a "
            "prompt must fit into one forward pass."
        )
    model = read_model_config(Path(config.model))
    if ours.fp8_weights:
        _check_fp8(config, model)
    return Limits(config.max_prompt_tokens, config.max_total_tokens, int(model["vocab_size"]))


def _check_fp8(config: ServeRolloutConfig, model: dict[str, Any]) -> None:
    if config.weights != "refit":
        raise ConfigError(
            f"trtllm.fp8_weights=true with weights={config.weights}: FP8 weights start as dummies that a trainer's "
            "refit fills. Set weights=refit, or trtllm.fp8_weights=false."
        )
    head = model.get("head_dim") or model["hidden_size"] // model["num_attention_heads"]
    ranks = config.trtllm.tensor_parallel
    for what, rows in (
        ("num_attention_heads × head size", model["num_attention_heads"] * head),
        ("num_key_value_heads × head size", model["num_key_value_heads"] * head),
        ("intermediate_size", model["intermediate_size"]),
    ):
        if rows % (BLOCK * ranks):
            raise ConfigError(
                f"trtllm.fp8_weights=true: the model's {what} is {rows}, which blocks of {BLOCK} over "
                f"trtllm.tensor_parallel={ranks} GPUs do not divide."
            )


def constructor(config: ServeRolloutConfig, library: Any, placement_group: Any) -> dict[str, Any]:
    """Keywords of `AsyncLLM`.

    Args:
        library: the module `tensorrt_llm.llmapi.llm_args`.
        placement_group: of Ray, with a bundle a GPU.
    """
    ours = config.trtllm
    memory = library.ExecutorMemoryType
    words: dict[str, Any] = {
        "model": config.model,
        "backend": "pytorch",
        "dtype": ours.dtype,
        "tensor_parallel_size": ours.tensor_parallel,
        "max_seq_len": config.max_total_tokens,
        # Its default is 1,024, at which longer prompts are refused one by one.
        "max_input_len": config.max_total_tokens,
        "max_batch_size": ours.max_batch_size,
        "max_num_tokens": ours.max_num_tokens,
        "skip_tokenizer_init": True,
        "sampler_type": "TorchSampler",
        "load_format": "auto" if config.weights == "folder" else "dummy",
        "orchestrator_type": "ray",
        "ray_worker_extension_cls": EXTENSION,
        "placement_groups": [placement_group],
        "placement_bundle_indices": [list(range(ours.tensor_parallel))],
        "kv_cache_config": library.KvCacheConfig(
            enable_block_reuse=ours.prefix_reuse,
            free_gpu_memory_fraction=ours.kv_cache_fraction,
            dtype=ours.kv_cache_dtype,
        ),
        "cuda_graph_config": library.CudaGraphConfig(enable_padding=True, max_batch_size=ours.max_batch_size)
        if ours.cuda_graphs
        else None,
        "scheduler_config": library.SchedulerConfig(
            capacity_scheduler_policy=library.CapacitySchedulerPolicy.MAX_UTILIZATION
        ),
        # Neither is copied to the host on sleep: the next refit brings the weights.
        "sleep_config": library.SleepConfig(restore_modes={memory.MODEL_WEIGHTS_MAIN: "NONE", memory.KV_CACHE: "NONE"}),
    }
    if ours.fp8_weights:
        words["model_kwargs"] = {
            "quantization_config": {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "activation_scheme": "dynamic",
                "weight_block_size": [BLOCK, BLOCK],
                "modules_to_not_convert": list(NOT_QUANTIZED),
            }
        }
    return words


def sampling_words(params: SamplingParams, limits: Limits) -> dict[str, Any]:
    """Keywords of TensorRT-LLM's `SamplingParams` that all requests of a call share: all but `max_tokens` and `seed`.

    Raises:
        RequestError: its log-probs cannot be those at the temperature before top-p.
    """
    words: dict[str, Any] = {
        "temperature": params.temperature,
        # 0 keeps every id; greedy is the one most likely.
        "top_k": 1 if params.temperature == 0 else 0,
        "top_p": 1.0 if params.temperature == 0 else params.top_p,
        "end_id": NEVER,
        "pad_id": 0,
        "stop_token_ids": list(params.stop_ids) or None,
        "include_stop_str_in_output": True,
        "detokenize": False,
        # 0 beside the drawn token's own: a plain list of floats.
        "logprobs": 0,
        "logprobs_simple_format": True,
    }
    masked = params.vocabulary < limits.vocabulary
    if masked:
        words["embedding_bias"] = _mask(params.vocabulary, limits.vocabulary)
    if params.temperature == 0 or (params.temperature == 1 and (params.top_p < 1 or not masked)):
        words["logprobs_mode"] = "raw"
    elif params.top_p == 1:
        words["logprobs_mode"] = "processed"
    else:
        raise RequestError(
            f"top_p: {params.top_p:g} with temperature {params.temperature:g}: TensorRT-LLM gives log-probs before the "
            "temperature or after top-p, and neither is that of the draw. Set one of the two to 1."
        )
    return words


def for_request(shared: Any, request: Request, params: SamplingParams) -> Any:
    """A request's own copy of the shared sampling parameters, which does not copy the mask of ids."""
    own = copy.copy(shared)
    own.max_tokens = request.budget(params)
    own.seed = seed_of(request, params)
    return own


def seed_of(request: Request, params: SamplingParams) -> int:
    """A sample's seed: a non-negative number of 63 bits out of (seed, step, prompt, sample)."""
    key = np.random.SeedSequence((params.seed, params.step, request.prompt, request.sample))
    return int(key.generate_state(1, np.uint64)[0] >> np.uint64(1))


@functools.lru_cache(maxsize=4)
def _mask(vocabulary: int, rows: int) -> Tensor:
    bias_v = torch.zeros(rows, dtype=torch.float32)
    bias_v[vocabulary:] = MASKED
    return bias_v
