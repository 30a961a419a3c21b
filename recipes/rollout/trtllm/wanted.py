"""The TensorRT-LLM release this binding is written for, and every name of it that is called."""

from __future__ import annotations

from dataclasses import dataclass

PIN = "1.3.0rc21"
COMMIT = "bf2ef86f9a2652132b11773d4041e292c553c142"
"""Of NVIDIA/TensorRT-LLM: what NeMo-RL builds as that release (3rdparty/TensorRT-LLM-workspace/pyproject.toml)."""

FUNCTION = "function"
CLASS = "class"
ENUM = "enum"
ATTRIBUTES = "attributes"


@dataclass(frozen=True)
class Wanted:
    """One name of TensorRT-LLM.

    Attributes:
        name: `Class` or `Class.method`.
        path: its file, below the sources' root.
        kind: FUNCTION (parameters), CLASS (fields of a pydantic model or dataclass), ENUM (members) or ATTRIBUTES
            (methods, properties and attributes, whatever their values).
        uses: the parameters, fields, members or attributes that we name.
        optional: called where it is there, done without where it is not.
    """

    name: str
    path: str
    kind: str
    uses: tuple[str, ...] = ()
    optional: bool = False


_ASYNC_LLM = "tensorrt_llm/_torch/async_llm.py"
_LLM = "tensorrt_llm/llmapi/llm.py"
_ARGS = "tensorrt_llm/llmapi/llm_args.py"
_SAMPLING = "tensorrt_llm/sampling_params.py"
_RESULT = "tensorrt_llm/executor/result.py"
_EXTENSION = "tensorrt_llm/llmapi/rlhf_utils.py"
_EXECUTOR = "tensorrt_llm/_torch/pyexecutor/py_executor.py"
_LOADER = "tensorrt_llm/_torch/pyexecutor/model_loader.py"

WANTED = (
    Wanted("AsyncLLM.__init__", _ASYNC_LLM, FUNCTION, ("placement_groups", "placement_bundle_indices")),
    Wanted("AsyncLLM.setup_async", _ASYNC_LLM, FUNCTION),
    Wanted("AsyncLLM.collective_rpc", _ASYNC_LLM, FUNCTION, ("method", "args")),
    Wanted("AsyncLLM.release", _ASYNC_LLM, FUNCTION, ("tags",)),
    Wanted("AsyncLLM.resume", _ASYNC_LLM, FUNCTION, ("tags",)),
    Wanted("BaseLLM.generate_async", _LLM, FUNCTION, ("inputs", "sampling_params")),
    Wanted("BaseLLM.shutdown", _LLM, FUNCTION),
    Wanted("TorchLlmArgs", _ARGS, CLASS, (
        "model", "backend", "dtype", "tensor_parallel_size", "max_seq_len", "max_input_len", "max_batch_size",
        "max_num_tokens", "skip_tokenizer_init", "load_format", "model_kwargs", "kv_cache_config", "cuda_graph_config",
        "scheduler_config", "sleep_config", "orchestrator_type", "ray_worker_extension_cls", "sampler_type",
    )),
    Wanted("KvCacheConfig", _ARGS, CLASS, ("enable_block_reuse", "free_gpu_memory_fraction", "dtype")),
    Wanted("CudaGraphConfig", _ARGS, CLASS, ("enable_padding", "max_batch_size")),
    Wanted("SchedulerConfig", _ARGS, CLASS, ("capacity_scheduler_policy",)),
    Wanted("CapacitySchedulerPolicy", _ARGS, ENUM, ("MAX_UTILIZATION",)),
    Wanted("SleepConfig", _ARGS, CLASS, ("restore_modes",)),
    Wanted("ExecutorMemoryType", _ARGS, ENUM, ("KV_CACHE", "MODEL_WEIGHTS_MAIN")),
    Wanted("SamplingParams", _SAMPLING, CLASS, (
        "max_tokens", "temperature", "top_p", "top_k", "seed", "stop_token_ids", "include_stop_str_in_output", "end_id",
        "pad_id", "detokenize", "embedding_bias", "logprobs", "logprobs_simple_format", "logprobs_mode",
    )),
    Wanted("GenerationResultBase", _RESULT, ATTRIBUTES, ("outputs",)),
    Wanted("GenerationResult.abort", _RESULT, FUNCTION),
    Wanted("GenerationResult", _RESULT, ATTRIBUTES, ("__await__",)),
    Wanted("CompletionOutput", _RESULT, ATTRIBUTES, ("token_ids", "logprobs", "finish_reason")),
    Wanted("WorkerExtension", _EXTENSION, ATTRIBUTES),
    Wanted("WorkerExtension.finalize_weight_update", _EXTENSION, FUNCTION, optional=True),
    Wanted("PyExecutor.control_action", _EXECUTOR, FUNCTION, ("drain",)),
    Wanted("PyExecutor.reset_prefix_cache", _EXECUTOR, FUNCTION),
    Wanted("PyExecutor", _EXECUTOR, ATTRIBUTES, ("model_engine",)),
    Wanted("ModelLoader.reload", _LOADER, FUNCTION, ("model", "weights", "allow_partial_loading")),
    Wanted("ModelLoader.begin_update_weights", _LOADER, FUNCTION, optional=True),
    Wanted("ModelLoader.finalize_update_weights", _LOADER, FUNCTION, optional=True),
    Wanted("ModelLoader.abort_update_weights", _LOADER, FUNCTION, optional=True),
)  # fmt: skip
