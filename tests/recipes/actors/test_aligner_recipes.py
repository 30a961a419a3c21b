"""The cluster recipes, down-scaled, trained for two steps on NeMo-Aligner without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_helpers import RECIPES, down_scaled_words, two_domains
from tiny_helpers import write_small_model
from train_helpers import metrics, succeed


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_trains_a_tiny_model(recipe: str, tmp_path: Path) -> None:
    write_small_model(tmp_path / "model", num_attention_heads=4, num_key_value_heads=2)
    out = tmp_path / "run"
    succeed("train", *down_scaled_words(recipe, tmp_path / "model", two_domains(tmp_path / "pool"), out))
    lines = metrics(out)
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        # The engine's log-probs are those of the rollouts, which transformers' Qwen2 made with the same weights.
        assert line["logprob_error"] == pytest.approx(1.0, abs=1e-4)
        assert line["response_tokens"] > 1 and line["skipped_steps"] == 0
    assert (out / "checkpoints" / "step_000002").is_dir()
