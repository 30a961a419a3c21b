"""Model families that the Megatron engine builds, read from `config.json` without torch.

| model_type | models | QKV bias | q/k norm | width of a head | rotary embedding |
|---|---|---|---|---|---|
| qwen2 | Qwen2, Qwen2.5 | yes | no | hidden / heads | plain |
| qwen3 | Qwen3, dense | no | yes | head_dim | plain |
| llama | Llama 3, 3.1, 3.2, 3.3 | no | no | head_dim, or hidden / heads | plain, or llama3 scaling |

Whatever else a config asks for would change what the model computes, so it is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crossthink.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """What the models of one `model_type` have in common.

    Attributes:
        models: what people call them.
        qkv_bias: the query, key and value projections have a bias.
        qk_norm: queries and keys pass an RMSNorm of the width of a head.
        rope_types: rotary embeddings it comes with.
        off: keys of config.json that must be absent, null or false, because they add what is not built here.
    """

    models: str
    qkv_bias: bool
    qk_norm: bool
    rope_types: tuple[str, ...]
    off: tuple[str, ...]


FAMILIES = {
    "qwen2": Family("Qwen2, Qwen2.5", True, False, ("default",), ("use_sliding_window",)),
    "qwen3": Family("Qwen3 dense", False, True, ("default",), ("use_sliding_window", "attention_bias")),
    "llama": Family("Llama 3", False, False, ("default", "llama3"), ("attention_bias", "mlp_bias")),
}
# Adapters and quantised weights: keys that any config may hold.
_OFF_EVERYWHERE = ("quantization_config",)
# megatron-core 0.16.1 takes the factor alone; these are the other constants, as in every Llama 3 model.
# Source: its models/common/embeddings/rotary_pos_embedding.py, RotaryEmbedding._apply_scaling.
_LLAMA3_CONSTANTS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_DEFAULT_ROPE_THETA = 10000.0  # transformers' own, for configs that do not state one
_DEFAULT_NORM_EPSILON = 1e-6  # transformers' own
_QWEN3_HEAD_DIM = 128  # transformers' own


@dataclass(frozen=True)
class ModelShape:
    """A model's sizes and features.

    Attributes:
        model_type: a key of `FAMILIES`.
        layers: decoder layers.
        hidden: width of the residual stream.
        mlp: columns of the gated MLP.
        heads: query heads.
        kv_heads: key-value heads; each serves heads / kv_heads queries.
        head_dim: width of a head.
        vocabulary: rows of the embedding, before any padding for tensor parallelism.
        tied: the head is the embedding.
        qkv_bias: see `Family`.
        qk_norm: see `Family`.
        rope_theta: rotary base.
        rope_factor: factor of llama3 scaling; None where the rotary embedding is plain.
        norm_epsilon: of every RMSNorm.
    """

    model_type: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    rope_theta: float
    rope_factor: float | None
    norm_epsilon: float


def read_shape(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape that a model's config states.

    Args:
        config: `config.json`, as transformers 4 or 5 writes it.
        where: what messages call the model.

    Raises:
        ConfigError: an unknown family, a size that is missing or no whole number of at least 1, or a feature that
            would change results; names it.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        known = ", ".join(f"{name} ({family.models})" for name, family in FAMILIES.items())
        raise ConfigError(f"{where}: model_type is '{model_type}'; actor=megatron knows {known}.")
    family = FAMILIES[model_type]
    _refuse_features(config, family, where)
    rope_theta, rope_factor = _rotary(config, family, where)
    hidden, heads = _size(config, "hidden_size", where), _size(config, "num_attention_heads", where)
    kv_heads = _size(config, "num_key_value_heads", where)
    head_dim = config.get("head_dim")
    if head_dim is None and model_type == "qwen3":
        head_dim = _QWEN3_HEAD_DIM
    if head_dim is None:
        if hidden % heads:
            raise ConfigError(
                f"{where}: config.json states no head_dim, and hidden_size={hidden} is no multiple of "
                f"num_attention_heads={heads} ({hidden} = {hidden // heads} × {heads} + {hidden % heads})."
            )
        head_dim = hidden // heads
    elif model_type == "qwen2" and head_dim * heads != hidden:
        raise ConfigError(
            f"{where}: head_dim={head_dim} × num_attention_heads={heads} = {head_dim * heads} is not "
            f"hidden_size={hidden}, as it is in every qwen2 model."
        )
    if heads % kv_heads:
        raise ConfigError(
            f"{where}: num_key_value_heads={kv_heads} does not divide num_attention_heads={heads} "
            f"({heads} = {heads // kv_heads} × {kv_heads} + {heads % kv_heads})."
        )
    return ModelShape(
        model_type=model_type,
        layers=_size(config, "num_hidden_layers", where),
        hidden=hidden,
        mlp=_size(config, "intermediate_size", where),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_size({"head_dim": head_dim}, "head_dim", where),
        vocabulary=_size(config, "vocab_size", where),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rope_theta=rope_theta,
        rope_factor=rope_factor,
        norm_epsilon=float(config.get("rms_norm_eps") or _DEFAULT_NORM_EPSILON),
    )


def _size(config: Mapping[str, Any], name: str, where: str) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where}: config.json states {name}={value}; a whole number of at least 1 is needed.")
    return value


def _refuse_features(config: Mapping[str, Any], family: Family, where: str) -> None:
    for key in (*family.off, *_OFF_EVERYWHERE):
        if config.get(key):
            raise ConfigError(
                f"{where}: config.json states {key}={config[key]}; actor=megatron builds {family.models} without it."
            )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigError(f"{where}: config.json states hidden_act={activation}; actor=megatron builds silu only.")
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        raise ConfigError(
            f"{where}: config.json states layer_types with {', '.join(sorted(map(str, kinds)))}; actor=megatron "
            "builds full_attention only."
        )


def _rotary(config: Mapping[str, Any], family: Family, where: str) -> tuple[float, float | None]:
    """The rotary base, and the factor of llama3 scaling; from where transformers 4 and 5 keep them."""
    rotary: dict[str, Any] = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = float(rotary.get("rope_theta") or config.get("rope_theta") or _DEFAULT_ROPE_THETA)
    kind = rotary.get("rope_type") or rotary.get("type") or "default"
    if kind not in family.rope_types:
        raise ConfigError(
            f"{where}: config.json states a rotary embedding of type '{kind}'; actor=megatron builds "
            f"{', '.join(family.rope_types)} for {family.models}."
        )
    partial = rotary.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise ConfigError(f"{where}: config.json states partial_rotary_factor={partial}; actor=megatron builds 1 only.")
    if kind == "default":
        return theta, None
    for name, wanted in _LLAMA3_CONSTANTS.items():
        if rotary.get(name) != wanted:
            raise ConfigError(
                f"{where}: config.json states {name}={rotary.get(name)} in its rotary embedding; megatron-core builds "
                f"llama3 scaling with {wanted:g} only."
            )
    factor = rotary.get("factor")
    if not isinstance(factor, int | float) or factor < 1:
        raise ConfigError(f"{where}: config.json states factor={factor} in its rotary embedding; at least 1 is needed.")
    return theta, float(factor)
