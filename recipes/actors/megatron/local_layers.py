"""Layers without Transformer Engine: torch's norm and attention in megatron-core's decoder layer."""

from __future__ import annotations

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from recipes.actors.megatron.attention import CausalSdpa


class RmsNorm(torch.nn.RMSNorm):
    """torch's RMSNorm, made as megatron-core makes norms.

    megatron-core's own wrapper (torch_norm.py:33 of 0.16.1) refuses sequence parallelism. All it takes is the mark by
    which `finalize_model_grads` adds up the gradients of ranks that saw different positions.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__(hidden_size, eps=eps)
        self.weight.sequence_parallel = config.sequence_parallel


def local_block_spec(config: TransformerConfig, layers: int) -> TransformerBlockSubmodules:
    """`layers` decoder layers and a final norm out of megatron-core's own modules, `RmsNorm` and `CausalSdpa`."""
    layer = get_gpt_layer_local_spec(normalization=config.normalization, qk_layernorm=config.qk_layernorm)
    _use_rms_norm(layer, "input_layernorm", "pre_mlp_layernorm")
    attention = layer.submodules.self_attention
    _use_rms_norm(attention, "q_layernorm", "k_layernorm")
    attention.submodules.core_attention = CausalSdpa
    return TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=RmsNorm)


def _use_rms_norm(spec: ModuleSpec, *names: str) -> None:
    for name in names:
        if getattr(spec.submodules, name) is not IdentityOp:
            setattr(spec.submodules, name, RmsNorm)
