"""The policy engine and its optimizer: `actor.*`, `optimizer.*`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ActorConfig:
    """The policy engine."""

    name: str = "megatron"
    """megatron, or aligner (NeMo-Aligner, in an environment of its own)."""
    tensor_parallel: int = 1
    """Ranks that share every layer's weights."""
    pipeline_parallel: int = 1
    """Ranks that share the stack of layers."""
    pipeline_first_layers: int | None = None
    """Layers of the first pipeline stage. null: as even as it can be, first and last stage the smaller ones. [ours]"""
    pipeline_last_layers: int | None = None
    """Layers of the last pipeline stage. null: as even as it can be, first and last stage the smaller ones. [ours]"""
    data_parallel: int | None = None
    """Ranks that share the batch. null: 1, or whatever an outside launcher (torchrun) leaves over."""
    sequence_parallel: bool = False
    """Tensor-parallel ranks also share the positions between the matrix products: less activation memory. [ours]"""
    distributed_optimizer: bool | None = None
    """Data-parallel ranks share Adam's state (ZeRO-1). null: where there is more than one of them. [ours]"""
    overlap: bool | None = None
    """Reduce gradients and gather weights over data-parallel ranks during the passes. null: on a GPU. [ours]"""
    recompute: str = "none"
    """Activations made again in the backward pass: none, selective (attention) or full (each layer). [ours]"""
    head_chunk_mb: int = 256
    """Most MiB of float32 logits that a rank keeps at a time; they are made again in the backward pass. [ours]"""
    packing: bool | None = None
    """Sequences of a micro-batch stand in one row without padding. null: where Transformer Engine computes in bfloat16,
    whose attention has a kernel for it. [ours]"""
    dtype: str | None = None
    """float32 or bfloat16 (with float32 master weights). null: bfloat16 on a GPU, float32 on a CPU. [ours]"""
    transformer_engine: bool | None = None
    """Transformer Engine's layers. null: where CUDA and Transformer Engine are there. [ours]"""
    fp8: str = "off"
    """FP8 matrix products: off, delayed, current or blockwise scaling. Needs Transformer Engine. [ours]"""
    fp8_bf16_layers: int = 0
    """First layers, and as many last ones, that stay in bfloat16 under fp8=current or blockwise. [ours]"""
    fp8_log_probs: bool = True
    """FP8 in log-prob passes too; false computes them in bfloat16. [ours]"""
    reference: str = "resident"
    """Reference policy: resident (a second model) or offload (its weights wait in host memory). actor=aligner:
    only the latter. [ours]"""
    offload: bool = False
    """Adam's state and the gradient buffers leave the GPU while responses are generated. [ours]"""
    threads: int | None = None
    """CPU threads of each rank; null divides this machine's cores among the local ranks."""


@dataclass
class OptimizerConfig:
    """Adam with decoupled weight decay."""

    lr: float = 1e-6
    """Learning rate, constant after the warm-up. [reported]"""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up. [ours]"""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Adam's betas. [ours]"""
    epsilon: float = 1e-8
    """Adam's epsilon. [ours]"""
    weight_decay: float = 0.0
    """Decoupled weight decay. [ours]"""
    clip_grad: float = 1.0
    """Global gradient norm limit. [ours]"""
    max_skipped: int = 3
    """Optimizer steps in a row whose loss or gradient is not finite, after which the run stops. [ours]"""
