"""The config that NeMo-Aligner's critic gets."""

from __future__ import annotations

from pathlib import Path

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.aligner.config import SECTION, Sizes, critic_config, nemo_config
from recipes.actors.aligner.known_keys import unknown
from recipes.actors.mcore.precision import Precision
from recipes.models.families import read_shape
from recipes.models.tiny_shape import TINY_SHAPE, TINY_VOCABULARY


def actors(settings: ActorConfig) -> dict:
    shape = read_shape({**TINY_SHAPE, "vocab_size": TINY_VOCABULARY}, "tiny")
    sizes = Sizes(nodes=1, local=2, tensor=2, pipeline=1, vocabulary_rows=128, max_tokens=512)
    precision = Precision("float32", transformer_engine=False, fp8="off")
    return nemo_config(
        shape, sizes, settings, OptimizerConfig(), precision, tokenizer=Path("tokenizer"), seed=0, gpu=False
    )


def test_it_is_the_actors_with_a_value_head_and_no_key_that_nobody_reads() -> None:
    nemo = actors(ActorConfig())
    found = critic_config(nemo, offload=True)
    assert unknown(found) == []
    assert SECTION not in found["model"] and SECTION in nemo["model"]
    model = found["model"]
    assert (model["output_sequence"], model["share_embeddings_and_output_weights"]) == (True, False)
    assert model["offload_adam_states"] is True
    kept = model.keys() & nemo["model"].keys() - {"target", "share_embeddings_and_output_weights"}
    assert all(model[key] == nemo["model"][key] for key in kept)
