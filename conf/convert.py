"""`crossthink convert`: weights between Hugging Face folders and megatron-core checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class ConvertConfig:
    """Write the weights of a checkpoint or a model folder in the other format, bit for bit.

    A run's checkpoint becomes a Hugging Face folder; a Hugging Face folder becomes a checkpoint of megatron-core
    (torch_dist, weights only, any parallel sizes), and that a Hugging Face folder again.
    """

    checkpoint: str = MISSING
    """A run folder (its newest checkpoint), one of its checkpoints, a Hugging Face folder, or a to=megatron folder."""
    out: str = MISSING
    """The folder to write. It must not exist."""
    to: str = "auto"
    """huggingface or megatron; auto: megatron for a Hugging Face folder, huggingface for everything else."""
    dtype: str | None = None
    """float32 or bfloat16; null keeps the weights as they are."""
    max_shard_gb: float = 5.0
    """Size of a safetensors file at most, in 10^9 bytes; a single larger tensor has a file of its own. [ours]"""
    tensor_parallel: int = 1
    """Ranks that share every layer's weights, for to=megatron; torchrun or srun starts them."""
    pipeline_parallel: int = 1
    """Ranks that share the stack of layers, for to=megatron."""
    threads: int = 1
    """CPU threads."""
