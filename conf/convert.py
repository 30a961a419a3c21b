"""`crossthink convert`: weights between Hugging Face folders and megatron-core checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class ConvertConfig:
    """Write the weights of a checkpoint or a model folder in another format, bit for bit.

    A run's checkpoint, a .nemo or a checkpoint of megatron-core becomes a Hugging Face folder; a Hugging Face folder
    becomes a checkpoint of megatron-core (torch_dist, weights only, any parallel sizes); each of them a .nemo.
    """

    checkpoint: str = MISSING
    """A run folder (its newest checkpoint), one of its checkpoints, a Hugging Face folder, a to=megatron folder, or a
    .nemo file."""
    out: str = MISSING
    """The folder to write, or the .nemo file. It must not exist."""
    to: str = "auto"
    """huggingface, megatron or nemo; auto: nemo where out ends in .nemo, else megatron for a Hugging Face folder and
    huggingface for everything else."""
    like: str | None = None
    """Hugging Face folder with config and tokenizer of a .nemo that holds none."""
    trust: bool = False
    """Read a .nemo, which holds a pickle: only from people whose programs you would run."""
    dtype: str | None = None
    """float32 or bfloat16; null keeps the weights as they are."""
    max_shard_gb: float = 5.0
    """Size of a safetensors file at most, in 10^9 bytes; a single larger tensor has a file of its own. [ours]"""
    tensor_parallel: int = 1
    """Ranks that share every layer's weights, for to=megatron; torchrun starts them."""
    pipeline_parallel: int = 1
    """Ranks that share the stack of layers, for to=megatron."""
    threads: int = 1
    """CPU threads."""
