"""Scaled-dot-product attention in place of megatron-core's local one, which keeps every score of a sequence.

For machines without Transformer Engine. Memory grows with the length of a sequence, not with its square.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class CausalSdpa(MegatronModule):
    """Causal self-attention through `torch.nn.functional.scaled_dot_product_attention`, without dropout.

    Stands where megatron-core's `DotProductAttention` stands, and takes what that is built with and called with.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        assert attn_mask_type == AttnMaskType.causal and attention_type == "self", (attn_mask_type, attention_type)
        assert config.attention_dropout == 0.0 and not config.apply_query_key_layer_scaling
        self.scale = softmax_scale  # None: one over the root of the head's width

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        packed_seq_params: PackedSeqParams | None = None,
        **others: Any,
    ) -> Tensor:
        """[t, b, heads · width] from queries [t, b, heads, width] and keys and values [t, b, groups, width].

        With packed sequences none of them has the axis b: the sequences lie one after another along t.
        """
        assert attention_mask is None, "padding stands on the right, where causal attention never looks"
        assert others.get("attention_bias") is None
        if packed_seq_params is None:
            return self._attend(query, key, value)
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        sequences = zip(*(tensor[:, None].split(lengths) for tensor in (query, key, value)), strict=True)
        return torch.cat([self._attend(*one)[:, 0] for one in sequences])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        context = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.scale, enable_gqa=query.shape[1] != key.shape[1]
        )
        return context.permute(2, 0, 1, 3).flatten(2)
