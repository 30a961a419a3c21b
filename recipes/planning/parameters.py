"""Parameters of a decoder, by its shape alone; those of a rank are in `recipes.planning.weights`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recipes.models.families import ModelShape


@dataclass(frozen=True)
class Parameter:
    """One of a stage's parameters, as a tensor-parallel rank holds it.

    Attributes:
        kind: embedding, head, linear, or vector (norms and biases).
        count: elements.
    """

    kind: str
    count: int


def layer_parameters(shape: ModelShape, tensor: int = 1) -> list[Parameter]:
    """A decoder layer's parameters on one of `tensor` tensor-parallel ranks."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    found = [
        Parameter("linear", (queries + 2 * keys) // tensor * shape.hidden),
        Parameter("linear", shape.hidden * queries // tensor),
        Parameter("linear", 2 * shape.mlp // tensor * shape.hidden),
        Parameter("linear", shape.hidden * shape.mlp // tensor),
        Parameter("vector", shape.hidden),
        Parameter("vector", shape.hidden),
    ]
    if shape.qkv_bias:
        found.append(Parameter("vector", (queries + 2 * keys) // tensor))
    if shape.qk_norm:
        found += [Parameter("vector", shape.head_dim)] * 2
    return found


def count(parameters: list[Parameter]) -> int:
    """Elements of all of them."""
    return sum(one.count for one in parameters)


def table_parameters(shape: ModelShape) -> int:
    """The embedding, or the head."""
    return shape.vocabulary * shape.hidden


def all_parameters(shape: ModelShape) -> int:
    """The whole model; a tied head counts once."""
    tables = table_parameters(shape) * (1 if shape.tied else 2)
    return shape.layers * count(layer_parameters(shape)) + shape.hidden + tables


def hf_tensors(shape: ModelShape) -> Iterator[tuple[int, bool]]:
    """Elements of every tensor of the Hugging Face folder in the order of a refit, and whether ranks share it."""
    queries, keys, h = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.hidden
    yield shape.vocabulary * h, True
    for _ in range(shape.layers):
        yield from ((rows * h, True) for rows in (queries, keys, keys))
        if shape.qkv_bias:
            yield from ((rows, True) for rows in (queries, keys, keys))
        yield from ((rows * h, True) for rows in (shape.mlp, shape.mlp, queries, shape.mlp))
        yield from ((h, False),) * 2
        if shape.qk_norm:
            yield from ((shape.head_dim, False),) * 2
    yield h, False
    if not shape.tied:
        yield shape.vocabulary * h, True
