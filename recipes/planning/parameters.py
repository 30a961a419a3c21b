"""Parameter counts of a whole decoder; those of a rank are in `recipes.planning.weights`."""

from __future__ import annotations

from recipes.models.families import ModelShape


def layer_parameters(shape: ModelShape) -> int:
    """Weights, biases and norms of one decoder layer."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (queries + 2 * keys) + queries * shape.hidden
    biases = (queries + 2 * keys) * shape.qkv_bias
    norms = 2 * shape.hidden + 2 * shape.head_dim * shape.qk_norm
    return attention + biases + 3 * shape.hidden * shape.mlp + norms


def table_parameters(shape: ModelShape) -> int:
    """The embedding, or the head."""
    return shape.vocabulary * shape.hidden


def all_parameters(shape: ModelShape) -> int:
    """The whole model; a tied head counts once."""
    tables = table_parameters(shape) * (1 if shape.tied else 2)
    return shape.layers * layer_parameters(shape) + shape.hidden + tables
