"""Weights in FP8 with a scale a block of 128×128, as TensorRT-LLM's block-scaled linear layers load them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128
NOT_QUANTIZED = ("lm_head", "*embed_tokens*")
"""Modules that stay in the model's type, as the engine's quantization config lists them."""
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def quantized(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight as the engine wants it: a projection's in FP8 and its scales, any other as it is.

    Args:
        name: its Hugging Face name.
        weight: [rows, columns] where it is a projection's.
    """
    parts = name.split(".")
    if weight.dim() != 2 or parts[-1] != "weight" or parts[-2] not in _PROJECTIONS:
        yield name, weight
        return
    values, scales = quantize(weight)
    yield name, values
    yield f"{name}_scale_inv", scales


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values in E4M3 and what to multiply each block by.

    Args:
        weight: [rows, columns], of any size.

    Returns:
        float8_e4m3fn [rows, columns], and float32 [⌈rows/128⌉, ⌈columns/128⌉], the largest magnitude of each block
        over that of E4M3; 1 for a block of zeros.
    """
    rows, columns = weight.shape
    most = torch.finfo(torch.float8_e4m3fn).max
    padded = F.pad(weight.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    blocks = padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))  # [row blocks, 128, column blocks, 128]
    scales = blocks.abs().amax(dim=(1, 3)) / most
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    values = (blocks / scales[:, None, :, None]).clamp(-most, most).flatten(2, 3).flatten(0, 1)
    return values[:rows, :columns].to(torch.float8_e4m3fn), scales
