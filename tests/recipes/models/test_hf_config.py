"""config.json as transformers 4 and as transformers 5 writes it: the same rotary embedding in either."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from crossthink.errors import ConfigError
from recipes.models.hf_config import load_config

SIZES = {
    "vocab_size": 31, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 131072,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
# model_type, the keys of transformers 4, those of transformers 5
WRITTEN = {
    "plain": ("qwen2", {"rope_theta": 1e6}, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "llama3": (
        "llama",
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
    ),
}


def frequencies(folder, family, keys):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": family, **SIZES, **keys}))
    model = AutoModelForCausalLM.from_config(load_config(folder))
    return model.base_model.rotary_emb.inv_freq


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_rotary_embedding_is_the_folders(kind, tmp_path):
    family, four, five = WRITTEN[kind]
    found = [frequencies(tmp_path / name, family, keys) for name, keys in (("four", four), ("five", five))]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    # The highest frequency is 1 always, and no scaling touches it; the next one is the base's.
    assert found[0][:2].tolist() == pytest.approx([1.0, four["rope_theta"] ** (-2 / 16)], rel=1e-5)
    slowest = four["rope_theta"] ** (-14 / 16)
    assert float(found[0][-1]) == pytest.approx(slowest / (8 if kind == "llama3" else 1), rel=1e-5)


def test_a_family_that_transformers_does_not_know_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_family", **SIZES}))
    with pytest.raises(ConfigError, match=r"cannot read config\.json: .*no_such_family"):
        load_config(tmp_path)
