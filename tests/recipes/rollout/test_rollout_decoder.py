"""Our forward pass against transformers' own, for every family that it knows."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from crossthink.errors import ConfigError
from recipes.rollout.local.decoder import Decoder, check_config

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = {
    "qwen2": ("qwen2", {"num_key_value_heads": 2}),
    "qwen2 tied": ("qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
    "llama": ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama wide head": ("llama", {"num_key_value_heads": 2, "head_dim": 16}),
    "llama3 rope": ("llama", {"num_key_value_heads": 2, "rope_scaling": LLAMA3}),
}


def config_of(model_type, **changes):
    try:
        return AutoConfig.for_model(model_type, **(SIZES | changes))
    except ValueError:
        pytest.skip(f"this transformers does not know {model_type}")


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_log_probs_are_those_of_transformers(case):
    """Prompts of different lengths read side by side, in rows out of order; then token by token in runs of rows."""
    model_type, changes = CASES[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(model_type, **changes)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:  # as made, these are ones and zeros, and say nothing
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    ids_bt = torch.randint(0, 96, (4, 40))
    starts = [9, 2, 30, 17]
    decoder = Decoder(model)
    cache = decoder.new_cache()
    cache.reserve(4, 40)
    order = [2, 3, 0, 1]  # the longest first
    prompts_pt = torch.zeros(4, 30, dtype=torch.int64)
    for place, row in enumerate(order):
        prompts_pt[place, : starts[row]] = ids_bt[row, : starts[row]]
    decoder.read(prompts_pt, cache, torch.tensor(order))
    wanted_btv = model(ids_bt).logits.log_softmax(-1)
    for step in range(10):
        positions_b = torch.tensor([start + step for start in starts])
        width = 31 + step
        runs = [(0, 2, 10 + step, False), (2, 3, width, True), (3, 4, width, False)]
        found_bv = decoder.next_logits(ids_bt[torch.arange(4), positions_b], positions_b, cache, runs).log_softmax(-1)
        assert (found_bv - wanted_btv[torch.arange(4), positions_b]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("model_type", "changes", "says"),
    [
        ("gpt2", {}, "model_type=gpt2; the local rollout engine knows qwen2 .*, qwen3 .*, llama"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type=dynamic; .* llama3"),
    ],
)
def test_other_models_are_refused_by_name(model_type, changes, says):
    with pytest.raises(ConfigError, match=says):
        check_config(config_of(model_type, **changes), "somewhere")
