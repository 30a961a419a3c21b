"""FLOPs by formula: products counted by hand, and torch's own counter on transformers' models."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, Qwen2Config

from recipes.models import flops
from recipes.models.families import ModelShape, read_shape

# 2 layers, hidden 6, MLP 5, 3 query heads of width 2 over 1 key-value head, 7 ids.
SHAPE = ModelShape("qwen2", 2, 6, 5, 3, 1, 2, 7, True, True, False, 1e4, None, 1e-6)


def test_a_sequence_counted_by_hand():
    """3 prompt and 2 response tokens: 4 positions that see 1, 2, 3 and 4 keys."""
    qkv = 2 * 4 * 6 * (6 + 2 + 2)
    scores_and_values = 2 * (1 + 2 + 3 + 4) * 3 * 2 * 2
    output = 2 * 4 * 6 * 6
    mlp = 2 * 4 * (6 * 5 + 6 * 5 + 5 * 6)
    body = 2 * (qkv + scores_and_values + output + mlp)
    logits = 2 * 2 * 6 * 7
    assert (qkv, scores_and_values, output, mlp, body, logits) == (480, 240, 288, 720, 3456, 168)
    assert flops.log_prob_flops(SHAPE, 3, 2) == body + logits
    assert flops.train_flops(SHAPE, 3, 2) == 3 * (body + logits)
    assert flops.value_flops(SHAPE, 3, 2) == body + 2 * 4 * 6
    assert flops.train_critic_flops(SHAPE, 3, 2) == 3 * (body + 48)
    assert flops.recomputed_flops(SHAPE, 3, 2, "none") == logits
    assert flops.recomputed_flops(SHAPE, 3, 2, "selective") == 2 * scores_and_values + logits
    assert flops.recomputed_flops(SHAPE, 3, 2, "full") == body + logits
    with pytest.raises(ValueError, match="recompute=all"):
        flops.recomputed_flops(SHAPE, 3, 2, "all")


def test_generation_counted_by_hand():
    """The prompt's 3 positions and one row of logits, then one position that sees 4 keys, and its logits."""
    weights = 6 * 10 + 6 * 6 + 3 * 6 * 5
    assert flops.prefill_flops(SHAPE, 3) == 2 * (2 * 3 * weights + 2 * 2 * 6 * (1 + 2 + 3)) + 2 * 6 * 7
    assert flops.decode_flops(SHAPE, 3, 2) == 2 * (2 * 1 * weights + 2 * 2 * 6 * 4) + 2 * 6 * 7
    assert flops.decode_flops(SHAPE, 3, 1) == 0


@given(prompt=st.integers(1, 300), response=st.integers(1, 300))
def test_generation_reads_each_position_once(prompt, response):
    """With a cache, the products of a whole pass over the same positions, and as many rows of logits."""
    generated = flops.prefill_flops(SHAPE, prompt) + flops.decode_flops(SHAPE, prompt, response)
    assert generated == flops.log_prob_flops(SHAPE, prompt, response)


SIZES = {
    "vocab_size": 211, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "attn_implementation": "eager",
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"head_dim": 24}),
        ("llama", {}),
    ],
    ids=["qwen2_tied", "qwen2", "qwen3", "llama"],
)
def test_torchs_counter_agrees(family, more):
    """transformers computes the masked half of the scores too, and logits everywhere: so is it asked of the formula."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    config = AutoConfig.for_model(family, **SIZES, **more)
    positions, shape = 40, read_shape(config.to_dict(), "config")
    forward = flops.body_flops(shape, positions, positions**2) + flops.head_flops(shape, positions)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    with FlopCounterMode(display=False) as counted:
        loss = model(torch.arange(positions)[None]).logits.sum()
    assert counted.get_total_flops() == pytest.approx(forward, rel=0.01)
    with FlopCounterMode(display=False) as counted:
        loss.backward()
    assert counted.get_total_flops() == pytest.approx(2 * forward, rel=0.01)


def test_a_real_size():
    """At short lengths a pass costs about twice its weights a position; at 32,768 tokens attention is most of it."""
    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    shape = read_shape(Qwen2Config(**sizes, num_key_value_heads=4, vocab_size=152064).to_dict(), "Qwen2.5-7B")
    without_embedding = 7_615_616_512 - 152_064 * 3584
    assert flops.train_flops(shape, 1, 16) == pytest.approx(6 * without_embedding * 16, rel=0.001)
    attention = flops.attention_flops(shape, flops.causal_pairs(32_767))
    assert 0.30 < attention / flops.log_prob_flops(shape, 1, 32_767) < 0.60
