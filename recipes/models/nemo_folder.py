"""What a `.nemo` of a Hugging Face model holds, without torch and without NeMo.

| name | what |
|---|---|
| model_config.yaml | NeMo's config: the architecture, and how it was trained |
| model_weights/ | a distributed checkpoint of megatron-core, `model.` before its names |
| huggingface/ | config.json and the tokenizer; ours: NeMo's own files only name a folder or a hub id |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from crossthink.errors import ConfigError, UserError
from recipes.models.families import ModelShape

MODEL_CONFIG = "model_config.yaml"
WEIGHTS = "model_weights"
HUGGINGFACE = "huggingface"
POLICY = "policy"
"""What an unpacked `.nemo` is called within a run's checkpoint."""
VOCABULARY_MULTIPLE = 128
"""Rows of the embedding are a multiple of this, NeMo's `make_vocab_size_divisible_by`, so that a checkpoint has equally
many at 1, 2, 4 … tensor-parallel ranks: megatron-core 0.10 does not load others."""
TARGET = "nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel"
# Which of NeMo's fused kernels are used: none that needs apex, so that a model runs wherever it is read.
KERNELS = {
    "persist_layer_norm": False,
    "masked_softmax_fusion": False,
    "bias_activation_fusion": False,
    "bias_dropout_add_fusion": False,
    "gradient_accumulation_fusion": False,
    "gradient_as_bucket_view": True,
}
# Keys of the architecture that say how long sequences may be and how the vocabulary is padded, not what is computed.
_FREE = ("encoder_seq_length", "max_position_embeddings", "override_vocab_size")


def architecture(shape: ModelShape, vocabulary_rows: int, max_tokens: int) -> dict[str, Any]:
    """What NeMo's `model` section says of a Hugging Face model.

    Args:
        shape: the model's.
        vocabulary_rows: rows of the embedding with the padding that tensor parallelism needs.
        max_tokens: longest sequence.

    Raises:
        ConfigError: NeMo 2.1 does not build such a model.
    """
    for there, what in ((shape.qk_norm, "norms of queries and keys"), (shape.rope_factor, "llama3's rotary scaling")):
        if there:
            raise ConfigError(
                f"{shape.model_type} with {what} is not built by NeMo 2.1's GPT model. Use actor=megatron."
            )
    return {
        "mcore_gpt": True,
        "num_layers": shape.layers,
        "hidden_size": shape.hidden,
        "ffn_hidden_size": shape.mlp,
        "num_attention_heads": shape.heads,
        "num_query_groups": shape.kv_heads,
        "kv_channels": shape.head_dim,
        "override_vocab_size": vocabulary_rows,
        "encoder_seq_length": max_tokens,
        "max_position_embeddings": max_tokens,
        "position_embedding_type": "rope",
        "rotary_percentage": 1.0,
        "rotary_base": shape.rope_theta,
        "normalization": "rmsnorm",
        "layernorm_epsilon": shape.norm_epsilon,
        "activation": "fast-swiglu",
        "bias": False,
        "qkv_bias": shape.qkv_bias,
        "share_embeddings_and_output_weights": shape.tied,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "ffn_dropout": 0.0,
        "apply_query_key_layer_scaling": False,
    }


def stored_config(
    shape: ModelShape, vocabulary_rows: int, max_tokens: int, *, bfloat16: bool, tokenizer: Path
) -> dict[str, Any]:
    """`model_config.yaml` of a model that was not trained by NeMo; Aligner's scripts lay their own keys over it.

    Args:
        shape: the model's.
        vocabulary_rows: rows of the embedding.
        max_tokens: longest sequence.
        bfloat16: the type of the weights, else float32.
        tokenizer: folder of the Hugging Face tokenizer, which NeMo reads from there.
    """
    return {
        **architecture(shape, vocabulary_rows, max_tokens),
        "target": TARGET,
        "tokenizer": {"library": "huggingface", "type": str(tokenizer), "use_fast": True},
        "precision": "bf16" if bfloat16 else 32,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "micro_batch_size": 1,
        "global_batch_size": 1,
        **KERNELS,
        # Transformer Engine's layers expect states of their own beside the weights, and begin without them.
        "dist_ckpt_load_strictness": "log_all",
        "optim": {"name": "adamw", "lr": 1e-6},
    }


def read_nemo_config(folder: Path) -> dict[str, Any]:
    """`model_config.yaml` of an unpacked `.nemo`.

    Raises:
        UserError: it is missing or no mapping.
    """
    path = folder / MODEL_CONFIG
    if not path.is_file():
        raise UserError(f"{folder} holds no {MODEL_CONFIG}: it is no unpacked .nemo.")
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no mapping of keys to values.")
    return found


def check_architecture(stated: Mapping[str, Any], shape: ModelShape, where: str) -> None:
    """Refuse a `.nemo` of another architecture than the Hugging Face config beside it.

    Args:
        stated: its `model_config.yaml`.
        shape: of the Hugging Face config.
        where: what messages call the `.nemo`.

    Raises:
        UserError: names the first key that differs, with both values.
    """
    for key, wanted in architecture(shape, 0, 0).items():
        found = stated.get(key)
        if key == "kv_channels" and found is None:  # NeMo's way of saying hidden size by heads
            found = shape.hidden // shape.heads
        if key not in _FREE and not _is_default(key, found) and found != wanted:
            raise UserError(
                f"{where}: its {MODEL_CONFIG} states {key}={found}, where the Hugging Face config asks for {wanted}. "
                "It is a model of another architecture."
            )


def _is_default(key: str, value: Any) -> bool:
    """Whether the key is one that changes nothing where a file leaves it out, or names the same thing otherwise."""
    return (key in ("rotary_percentage", "apply_query_key_layer_scaling") or "dropout" in key) and value in (
        None, False, 0, 0.0, 1, 1.0,
    )  # fmt: skip
