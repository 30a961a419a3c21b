"""Where rollouts are generated: in the actor's processes, or by rollout servers; and `crossthink serve-rollout`."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

ENGINES = ("local", "trtllm")
TRANSPORTS = ("auto", "collective", "files")
KV_DTYPES = ("auto", "fp8")


@dataclass
class TrtllmConfig:
    """TensorRT-LLM's own settings (rollout=trtllm); what it calls them stands in docs/trtllm.md."""

    tensor_parallel: int = 1
    """GPUs of one engine."""
    max_batch_size: int = 256
    """Samples that one engine generates side by side."""
    max_num_tokens: int = 8192
    """Tokens of one forward pass, prompts included."""
    kv_cache_fraction: float = 0.85
    """Share of the GPU memory left after the weights that the KV cache takes; 0.6 or less where colocated."""
    kv_cache_dtype: str = "auto"
    """auto (the model's) or fp8."""
    fp8_weights: bool = False
    """Weights in FP8, 128×128 blocks: needs Hopper or later, and starts from dummy weights."""
    prefix_reuse: bool = True
    """Samples of a prompt share its KV cache; cleared at every refit."""
    cuda_graphs: bool = True
    """CUDA graphs for decoding, padded to the captured batch sizes."""
    dtype: str = "bfloat16"
    """Of weights and activations."""


@dataclass
class LocalRolloutConfig:
    """The local engine: transformers weights, our continuous batching, in this process."""

    name: str = "local"
    """local (transformers weights, our continuous batching); train also knows trtllm (TensorRT-LLM, in servers)."""
    batch_size: int = 512
    """Samples that one local engine generates side by side."""


@dataclass
class RolloutConfig(LocalRolloutConfig):
    """Where rollouts come from. Without servers the local engine generates in the actor's processes."""

    servers: int = 0
    """Rollout servers that train starts on this machine, and submit on the job's nodes. 0: none; submit fills
    nodes.rollout."""
    url: list[str] = field(default_factory=list)
    """Rollout servers of others; empty: those of servers, or the actor's processes."""
    token: str | None = None
    """Shared secret of the servers in url, or @FILE that holds it."""
    transport: str = "auto"
    """How weights get to servers: collective (NCCL, gloo), files (safetensors), or auto: collective where both sides
    have the same torch and NCCL."""
    bucket_mb: float = 64.0
    """Largest message of a refit, MiB; a larger tensor travels in slices."""
    weights_dir: str | None = None
    """Folder that actor and servers both see, for transport=files. null: /dev/shm where all run on one machine."""
    deadline_s: float = 600.0
    """Seconds without a token from a server before its samples are asked of another."""
    refit_deadline_s: float = 600.0
    """Seconds for one refit; a server that takes longer is left out."""
    outage_limit_s: float = 300.0
    """Seconds without any server before the run stops, resumable."""
    lag: int = 0
    """1: step t+1 is generated while step t trains, with weights one step old (needs servers)."""
    uncorrected: bool = False
    """Allow lag=1 without algorithm.importance_cap: the mismatch is then in the gradient. [ours]"""
    colocated: bool = False
    """The servers share the actor's GPUs: they give their memory back while it trains."""
    overlap_log_probs: bool = False
    """Compute the reference's log-probs of finished groups while others are still generated (needs servers). [ours]"""
    mismatch_band: float = 0.1
    """|log-prob of actor − of rollout| above which a token counts in mismatch_outside. [ours]"""
    max_mismatch: float | None = None
    """Largest mean |log-prob of actor − of rollout| of a step before the run stops, saved. null: none. [ours]"""
    trtllm: TrtllmConfig = field(default_factory=TrtllmConfig)


@dataclass
class ServeRolloutConfig:
    """Generate over HTTP: token ids in; ids, log-probs and the weight version out. OpenAI's endpoints stand beside."""

    model: str = MISSING
    """Hugging Face folder: config.json and the tokenizer; its weights are loaded unless weights=refit."""
    weights: str = "folder"
    """folder (serve the folder's own weights, as version 0) or refit (refuse until a trainer brings weights)."""
    engine: str = "local"
    """local or trtllm."""
    host: str = "127.0.0.1"
    """Address to listen on; anything but this machine's own needs a token."""
    port: int = 8001
    """TCP port; 0: any free one."""
    token: str | None = None
    """Shared secret, or @FILE that holds it; sent by clients as `Authorization: Bearer TOKEN` (an OpenAI client's
    api_key)."""
    served_name: str | None = None
    """Model name of the OpenAI endpoints; null: the folder's name."""
    batch_size: int = LocalRolloutConfig.batch_size
    """Samples that the local engine generates side by side."""
    threads: int | None = None
    """CPU threads of the local engine; null: torch's own choice."""
    device: str = "auto"
    """auto, cpu or cuda."""
    max_prompt_tokens: int | None = None
    """Longest prompt; null: max_total_tokens less one."""
    max_total_tokens: int | None = None
    """Longest prompt with its response; null: the model's positions, at most 8192."""
    max_queue: int = 16384
    """Samples that may be under way; a request that would pass it is answered 429 with Retry-After."""
    max_body_mb: int = 64
    """Size limit of one request, MiB."""
    drain_s: float = 30.0
    """Seconds that samples under way are given after SIGTERM."""
    refit_deadline_s: float = RolloutConfig.refit_deadline_s
    """Seconds that a refit may wait for samples under way, and again for the weights."""
    weights_dir: str | None = None
    """Only folders below this one are read in a refit by files. null: /dev/shm."""
    token_delay_s: float = 0.0
    """Sleep after every token of the local engine: rehearses a slower one."""
    seed: int = 0
    """Of OpenAI requests that give none; each then draws anew."""
    trtllm: TrtllmConfig = field(default_factory=TrtllmConfig)
