"""A model and a tokenizer smaller than the tiny ones, for tests that need any at all."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from recipes.models.tiny import tiny_config, tiny_tokenizer

CORPUS = (
    "What is 12 + 30? The answer is 42.",
    "Of Ana, 7, and Ben, 9, who is older? Ben is older.",
    "Choose one: A. pens B. cups C. eggs D. nuts",
)


@functools.cache
def small_tokenizer() -> PreTrainedTokenizerFast:
    """A tiny tokenizer trained on a few words."""
    return tiny_tokenizer(CORPUS)


def small_model(seed: int = 0, **changes: object) -> Qwen2ForCausalLM:
    """A random Qwen2 like the tiny one with two layers of width 32, sharp enough that greedy answers vary."""
    fields = tiny_config(small_tokenizer()).to_dict()
    fields |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.3}
    fields.pop("layer_types", None)  # one for each layer; transformers 4 has none
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(**(fields | changes))).eval().requires_grad_(False)


def write_small_model(folder: Path, seed: int = 0, **changes: object) -> Qwen2ForCausalLM:
    """Write a small model's folder, tokenizer included. Returns the model."""
    model = small_model(seed, **changes)
    model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return model
