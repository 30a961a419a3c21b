"""Small random models of every known family, and the shapes of published ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen3Config
from uneven_helpers import make_uneven

_SMALL: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "dtype": "float32", "max_position_embeddings": 131072,
}  # fmt: skip
_PLAIN = {"rope_type": "default", "rope_theta": 50_000.0}
# At a base of 5e5 and heads of 16, wavelengths run from 6 to a million positions: below, in and beyond the part that
# llama3 scaling smoothes.
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip

FAMILY_CONFIGS: dict[str, PretrainedConfig] = {
    "qwen2": Qwen2Config(**_SMALL, tie_word_embeddings=False, rope_parameters=_PLAIN),
    "qwen2_tied": Qwen2Config(**_SMALL, tie_word_embeddings=True, rope_parameters=_PLAIN),
    "qwen3": Qwen3Config(**_SMALL, head_dim=24, tie_word_embeddings=False, rope_parameters=_PLAIN),
    "qwen3_tied": Qwen3Config(**_SMALL, head_dim=16, tie_word_embeddings=True, rope_parameters=_PLAIN),
    "llama": LlamaConfig(**_SMALL, tie_word_embeddings=False, rope_parameters=_PLAIN),
    "llama31": LlamaConfig(**_SMALL, head_dim=16, tie_word_embeddings=False, rope_parameters=_LLAMA3),
    "llama32_tied": LlamaConfig(
        **_SMALL, head_dim=16, tie_word_embeddings=True, rope_parameters=_LLAMA3 | {"factor": 32.0}
    ),
}


def _published(model_type: str, sizes: tuple[int, ...], tied: bool, **more: Any) -> dict[str, Any]:
    names = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "vocab_size",
    )  # fmt: skip
    return {"model_type": model_type, **dict(zip(names, sizes, strict=True)), "tie_word_embeddings": tied, **more}


_QWEN2 = {"rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28}
_LLAMA31 = {"rope_theta": 5e5, "rope_scaling": {k: v for k, v in _LLAMA3.items() if k != "rope_theta"}}
# config.json in the keys of transformers 4, and the parameters that the model cards and their weights count.
REAL_SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "Qwen2.5-0.5B": (_published("qwen2", (896, 4864, 24, 14, 2, 151936), True, **_QWEN2), 494_032_768),
    "Qwen2.5-1.5B": (_published("qwen2", (1536, 8960, 28, 12, 2, 151936), True, **_QWEN2), 1_543_714_304),
    "Qwen2.5-7B": (_published("qwen2", (3584, 18944, 28, 28, 4, 152064), False, **_QWEN2), 7_615_616_512),
    "Qwen2.5-32B": (_published("qwen2", (5120, 27648, 64, 40, 8, 152064), False, **_QWEN2), 32_763_876_352),
    "Qwen2.5-72B": (_published("qwen2", (8192, 29568, 80, 64, 8, 152064), False, **_QWEN2), 72_706_203_648),
    "Qwen3-0.6B": (
        _published("qwen3", (1024, 3072, 28, 16, 8, 151936), True, rope_theta=1e6, head_dim=128), 596_049_920,
    ),
    "Qwen3-8B": (
        _published("qwen3", (4096, 12288, 36, 32, 8, 151936), False, rope_theta=1e6, head_dim=128), 8_190_735_360,
    ),
    "Llama-3-8B": (_published("llama", (4096, 14336, 32, 32, 8, 128256), False, rope_theta=5e5), 8_030_261_248),
    "Llama-3.1-8B": (_published("llama", (4096, 14336, 32, 32, 8, 128256), False, **_LLAMA31), 8_030_261_248),
}  # fmt: skip


def random_model(name: str, folder: Path, **save: Any) -> PreTrainedModel:
    """A random model of a family, saved in `folder`; uneven biases and norms, so that a forgotten or swapped one shows.

    Args:
        name: a key of `FAMILY_CONFIGS`.
        folder: where to save it.
        save: options of transformers' `save_pretrained`.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(FAMILY_CONFIGS[name])).eval()
    make_uneven(model)
    model.save_pretrained(folder, **save)
    return model
