"""A model's forward pass over a `RowCache`: prompts in, then one token of every row at a time.

Weights and small modules are those of the transformers model. The pass is ours, because transformers' own caches
copy all that they hold for each token, and every row attends to as many columns as the longest has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from crossthink.errors import ConfigError
from recipes.models.families import FAMILIES
from recipes.rollout.local.row_cache import RowCache

# Rotary embeddings whose frequencies are the same at every length.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def check_config(config: PretrainedConfig, where: str) -> None:
    """Refuse models that `Decoder` would compute otherwise than transformers does.

    Raises:
        ConfigError: names the key of config.json, its value and what is allowed.
    """

    def refuse(key: str, value: object, allowed: str) -> None:
        raise ConfigError(f"{where}: config.json states {key}={value}; the local rollout engine knows {allowed}.")

    if config.model_type not in FAMILIES:
        known = ", ".join(f"{name} ({family.models})" for name, family in FAMILIES.items())
        refuse("model_type", config.model_type, known)
    if getattr(config, "use_sliding_window", False):
        refuse("use_sliding_window", True, "full attention only")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        refuse("layer_types", sorted(kinds), "full_attention only")
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rotary.get("rope_type") or rotary.get("type") or "default"
    if kind not in ROPE_TYPES:
        refuse("rope_type", kind, ", ".join(ROPE_TYPES))


class Decoder:
    """The forward pass of a Qwen2, Qwen3 or Llama model of transformers 4.48 or later."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Use the model's own modules; `check_config` has passed its config."""
        self.backbone = model.model
        self.head = model.get_output_embeddings()
        self.kv_heads: int = model.config.num_key_value_heads
        self.head_dim: int = self.backbone.layers[0].self_attn.head_dim

    def new_cache(self) -> RowCache:
        """An empty cache of this model's sizes, where its weights are."""
        weight = self.head.weight
        return RowCache(len(self.backbone.layers), self.kv_heads, self.head_dim, weight.device, weight.dtype)

    def read(self, ids_pt: Tensor, cache: RowCache, rows_p: Tensor) -> None:
        """Read prompts into the first columns of rows of the cache.

        Causality keeps the padding on the right apart: a prompt's own columns never see it.

        Args:
            ids_pt: int64 [p, t], any id where a prompt is over.
            cache: has these rows, and at least t columns.
            rows_p: int64 [p].
        """
        prompts, width = ids_pt.shape
        hidden_pth = self.backbone.embed_tokens(ids_pt)
        cos_td, sin_td = self._rotary(hidden_pth, torch.arange(width, device=ids_pt.device))
        for number, layer in enumerate(self.backbone.layers):
            query, key, value = (
                part.transpose(1, 2) for part in self._project(layer, hidden_pth, cos_td, sin_td)
            )  # [p, heads, t, d]
            cache.keys[number][rows_p, :, :width] = key
            cache.values[number][rows_p, :, :width] = value
            if number + 1 == len(self.backbone.layers):
                return  # nobody asks for logits here
            share = query.shape[1] // self.kv_heads
            mixed = F.scaled_dot_product_attention(
                query, key.repeat_interleave(share, 1), value.repeat_interleave(share, 1), is_causal=True
            )
            hidden_pth = self._finish(layer, hidden_pth, mixed.transpose(1, 2).reshape(prompts, width, -1))

    def next_logits(
        self, ids_b: Tensor, positions_b: Tensor, cache: RowCache, spans: Sequence[tuple[int, int, int, bool]]
    ) -> Tensor:
        """Read one token into each of the cache's first b rows.

        Args:
            ids_b: int64 [b].
            positions_b: int64 [b]: each row's column for its token; those before it are filled.
            cache: has the columns.
            spans: runs of rows: first, one after the last, columns of the longest with this token, and whether all of
                the run are as long.

        Returns:
            [b, v] logits of the tokens that follow.
        """
        rows_b = torch.arange(len(ids_b), device=ids_b.device)
        columns_t = torch.arange(max(width for *_, width, _ in spans), device=ids_b.device)
        masks = [
            None if even else (columns_t[:width] <= positions_b[first:stop, None])[:, None, None]
            for first, stop, width, even in spans
        ]
        hidden_bh = self.backbone.embed_tokens(ids_b)
        cos_bd, sin_bd = self._rotary(hidden_bh, positions_b)
        for number, layer in enumerate(self.backbone.layers):
            query, key, value = self._project(layer, hidden_bh, cos_bd, sin_bd)  # [b, heads, d]
            keys, values = cache.keys[number], cache.values[number]
            keys[rows_b, :, positions_b] = key
            values[rows_b, :, positions_b] = value
            # The queries that share a key stand where a sequence's positions would: the key need not be copied.
            query = query.unflatten(1, (self.kv_heads, -1))
            mixed = [
                F.scaled_dot_product_attention(
                    query[first:stop], keys[first:stop, :, :width], values[first:stop, :, :width], attn_mask=mask
                )
                for (first, stop, width, _), mask in zip(spans, masks, strict=True)
            ]
            hidden_bh = self._finish(layer, hidden_bh, torch.cat(mixed).flatten(1))
        return self.head(self.backbone.norm(hidden_bh))

    def _rotary(self, like: Tensor, positions_t: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [t, 1, d], for all heads, by transformers' own module."""
        cos, sin = self.backbone.rotary_emb(like, positions_t[None])
        return cos[0, :, None], sin[0, :, None]

    def _project(self, layer: nn.Module, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [..., heads, d] of hidden states [..., h]."""
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        query = attention.q_proj(normed).unflatten(-1, (-1, self.head_dim))
        key = attention.k_proj(normed).unflatten(-1, (-1, self.head_dim))
        value = attention.v_proj(normed).unflatten(-1, (-1, self.head_dim))
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        return _rotate(query, cos, sin), _rotate(key, cos, sin), value

    @staticmethod
    def _finish(layer: nn.Module, hidden: Tensor, mixed: Tensor) -> Tensor:
        """What a layer does after its heads have mixed their values."""
        hidden = hidden + layer.self_attn.o_proj(mixed)
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head: [..., heads, d]."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
