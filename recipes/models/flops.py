"""Floating-point operations of a decoder by formula: forward, training, log-prob and value passes, generation.

Convention: a multiply-add is 2 operations, matrix products alone are counted (embedding look-ups, norms, rotary
embedding, softmax and activations are not), and a causal position counts the keys that it may see, n (n + 1) / 2 pairs
in n positions. Megatron-LM (`num_floating_point_operations`) and verl (`flops_counter.py`) take n² / 2, the same but
for the diagonal; older releases of both took n², which flatters long sequences. Training is 3 forward passes: the
gradient of a product is two products of its size (Narayanan et al. 2021, appendix). These are the model's operations:
what recomputation adds stands apart, in `recomputed_flops`.

Sequences are counted by themselves, without padding. One of t tokens has t - 1 positions: nothing follows the last.
"""

from __future__ import annotations

from recipes.models.families import ModelShape

MULTIPLY_ADD = 2


def causal_pairs(positions: int, before: int = 0) -> int:
    """Pairs of a query and a key that it may see: `positions` queries that follow `before` cached ones."""
    return positions * before + positions * (positions + 1) // 2


def attention_flops(shape: ModelShape, pairs: int) -> int:
    """Scores and their product with the values, of `pairs` pairs of positions in every layer."""
    return MULTIPLY_ADD * shape.layers * 2 * pairs * shape.heads * shape.head_dim


def body_flops(shape: ModelShape, positions: int, pairs: int) -> int:
    """All layers on `positions` positions: QKV, attention over `pairs`, output projection, gated MLP."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    weights = shape.hidden * (queries + 2 * keys) + queries * shape.hidden + 3 * shape.hidden * shape.mlp
    return MULTIPLY_ADD * shape.layers * positions * weights + attention_flops(shape, pairs)


def head_flops(shape: ModelShape, positions: int) -> int:
    """Logits of `positions` positions over the whole vocabulary."""
    return MULTIPLY_ADD * positions * shape.hidden * shape.vocabulary


def log_prob_flops(shape: ModelShape, prompt: int, response: int) -> int:
    """A forward pass that predicts the `response` tokens after `prompt` tokens; no other position has logits."""
    positions = prompt + response - 1
    return body_flops(shape, positions, causal_pairs(positions)) + head_flops(shape, response)


def value_flops(shape: ModelShape, prompt: int, response: int) -> int:
    """A forward pass of the critic, which has one number in place of logits, at every position."""
    positions = prompt + response - 1
    return body_flops(shape, positions, causal_pairs(positions)) + MULTIPLY_ADD * positions * shape.hidden


def train_flops(shape: ModelShape, prompt: int, response: int) -> int:
    """Forward and backward pass of the policy."""
    return 3 * log_prob_flops(shape, prompt, response)


def train_critic_flops(shape: ModelShape, prompt: int, response: int) -> int:
    """Forward and backward pass of the critic."""
    return 3 * value_flops(shape, prompt, response)


def recomputed_flops(shape: ModelShape, prompt: int, response: int, recompute: str) -> int:
    """What the policy's backward pass computes a second time; no part of `train_flops`.

    Args:
        shape: the model's.
        prompt: tokens.
        response: tokens.
        recompute: `actor.recompute`: none, selective (attention) or full (each layer). The logits are made again
            whatever it says.

    Raises:
        ValueError: another `recompute`.
    """
    positions = prompt + response - 1
    pairs = causal_pairs(positions)
    if recompute == "none":
        layers = 0
    elif recompute == "selective":
        layers = attention_flops(shape, pairs)
    elif recompute == "full":
        layers = body_flops(shape, positions, pairs)
    else:
        raise ValueError(f"recompute={recompute}: none, selective or full")
    return layers + head_flops(shape, response)


def prefill_flops(shape: ModelShape, prompt: int) -> int:
    """Read a prompt and give the logits of the token after it."""
    return body_flops(shape, prompt, causal_pairs(prompt)) + head_flops(shape, 1)


def decode_flops(shape: ModelShape, prompt: int, response: int) -> int:
    """Draw `response` tokens with a KV cache after `prefill_flops`: each but the last is read to give the next."""
    positions = response - 1
    return body_flops(shape, positions, causal_pairs(positions, before=prompt)) + head_flops(shape, positions)
