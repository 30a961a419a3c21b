"""recipe=crossthink_7b and crossthink_32b: the paper's settings, layouts that fit the models, what a user must give."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_helpers import RECIPES, REPLACED, REPLACED_IN, down_scaled, published_folder, two_domains

from conf.actor import OptimizerConfig
from conf.algorithm import AlgorithmConfig
from conf.compose import differences, from_yaml, resolve, to_yaml
from conf.train import DemoConfig, SamplingConfig, TrainConfig
from crossthink.errors import EXIT_USAGE, ConfigError
from recipes import train
from recipes.actors.aligner import limits as aligner_limits
from recipes.actors.aligner.config import Sizes, nemo_config
from recipes.actors.aligner.known_keys import unknown
from recipes.actors.mcore.precision import resolve_precision
from recipes.actors.megatron import limits as megatron_limits
from recipes.checks import check_model
from recipes.environment import missing
from recipes.machine import gpu_names
from recipes.models.families import read_shape
from recipes.models.model_folder import check_published, check_shape

ENGINE_LIMITS = {"aligner": aligner_limits, "megatron": megatron_limits}
BILLIONS = {"crossthink_7b": 7.6, "crossthink_32b": 32.8}
needs_megatron = pytest.mark.skipif(missing("megatron") is not None, reason=str(missing("megatron")))
ON_CPU = ("actor.fp8=off", "actor.transformer_engine=false")


def resolved(recipe: str, *words: str) -> TrainConfig:
    return resolve("train", TrainConfig, [f"recipe={recipe}", "out=run", *words])


@pytest.mark.parametrize("recipe", RECIPES)
def test_settings_are_the_papers(recipe: str) -> None:
    config = resolved(recipe)
    assert (config.steps, config.prompts_per_step, config.samples_per_prompt, config.updates_per_rollout) == (
        650,
        128,
        8,
        1,
    )
    assert config.max_prompt_tokens + config.max_response_tokens == 5000
    assert config.optimizer == OptimizerConfig(lr=1e-6)
    assert config.sampling == SamplingConfig(temperature=1.0, top_p=1.0)
    assert config.algorithm == AlgorithmConfig(name="grpo", kl=0.001)
    assert (config.blend.name, config.model.name) == ("gpr_up", recipe.replace("crossthink", "qwen2_5"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_engine_is_nemo_aligners_and_megatrons_is_one_word_away(recipe: str) -> None:
    config, other = resolved(recipe), resolved(recipe, "actor=megatron")
    assert differences(config, other) == [("actor.name", "aligner", "megatron")]
    actor = config.actor
    assert (actor.fp8, actor.transformer_engine, actor.dtype) == ("delayed", True, "bfloat16")
    assert actor.sequence_parallel and actor.distributed_optimizer and actor.recompute == "full"
    assert (config.rollout.name, config.rollout.servers, config.nodes.reward) == ("trtllm", 0, 1)
    assert from_yaml(TrainConfig, to_yaml(config)) == config


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("engine", ENGINE_LIMITS)
def test_the_layout_fits_the_model(recipe: str, engine: str) -> None:
    config = resolved(recipe)
    hub = {"model_type": "qwen2", "rope_theta": 1e6, **config.model.shape}
    check_shape(hub, config.actor.tensor_parallel, config.actor.pipeline_parallel, config.model.hub_id)
    ENGINE_LIMITS[engine].check_layers(config.actor, hub)
    shape = read_shape(hub, config.model.hub_id)
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    layer = attention + 3 * shape.hidden * shape.mlp
    assert (shape.layers * layer + 2 * shape.vocabulary * shape.hidden) / 1e9 == pytest.approx(
        BILLIONS[recipe], abs=0.05
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_aligner_runs_the_layout_where_the_gpu_stack_is_and_names_what_a_cpu_lacks(recipe: str) -> None:
    actor = resolved(recipe).actor
    aligner_limits.check_settings(actor, aligner_limits.Machine(cuda=True, transformer_engine=True, apex=True))
    with pytest.raises(ConfigError, match=r"actor\.sequence_parallel=true needs CUDA under actor=aligner"):
        aligner_limits.check_settings(actor, aligner_limits.Machine(cuda=False, transformer_engine=False, apex=False))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("gpu", [True, False])
def test_every_key_of_the_config_that_nemo_gets_is_known(recipe: str, gpu: bool, tmp_path: Path) -> None:
    config = resolved(recipe) if gpu else down_scaled(recipe, tmp_path, tmp_path, tmp_path)
    actor, hub = config.actor, {"model_type": "qwen2", **resolved(recipe).model.shape}
    made = nemo_config(
        read_shape(hub, recipe),
        Sizes(4, 8, actor.tensor_parallel, actor.pipeline_parallel, hub["vocab_size"], 5000),
        actor,
        config.optimizer,
        resolve_precision(actor, cuda=gpu, transformer_engine=gpu),
        tokenizer=tmp_path,
        seed=config.seed,
        gpu=gpu,
    )
    assert unknown(made) == []
    model = made["model"]
    assert (model["tensor_model_parallel_size"], model["pipeline_model_parallel_size"]) == (
        actor.tensor_parallel, actor.pipeline_parallel,
    )  # fmt: skip
    assert model["optim"]["name"] == ("distributed_fused_adam" if gpu else "adamw")
    assert (model.get("fp8_hybrid", False), model["sequence_parallel"], model["transformer_engine"]) == (gpu, gpu, gpu)
    made["model"]["sequnce_parallel"] = made["model"].pop("sequence_parallel")
    made["model"]["optim"]["bucket_cap_md"] = 200
    assert sorted(unknown(made)) == ["model.optim.bucket_cap_md", "model.sequnce_parallel"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_a_model_the_message_says_what_to_download(recipe: str) -> None:
    for refuse, words in ((check_model, ()), (train.check, ("actor=megatron", "rollout.servers=8"))):
        with pytest.raises(ConfigError) as caught:
            refuse(resolved(recipe, *words))
        hub_id = {"crossthink_7b": "Qwen/Qwen2.5-7B", "crossthink_32b": "Qwen/Qwen2.5-32B"}[recipe]
        assert caught.value.exit_code == EXIT_USAGE
        for part in ("model.path= is missing", f"hf download {hub_id} --local-dir FOLDER", "model.path=FOLDER"):
            assert part in str(caught.value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_data_the_message_says_what_to_make(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data= is required: .* `crossthink prep`"):
        check_model(resolved(recipe, f"model.path={tmp_path}"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_folder_of_another_size_is_refused_with_both_numbers(recipe: str, tmp_path: Path) -> None:
    model = resolved(recipe).model
    for key, wanted in model.shape.items():
        folder = published_folder(tmp_path / key, model.shape, **{key: 12})
        with pytest.raises(ConfigError) as caught:
            check_published(folder, model.hub_id, model.shape)
        assert f"{key}=12" in str(caught.value) and f"{model.hub_id} has {wanted}." in str(caught.value)
    check_published(published_folder(tmp_path / "right", model.shape), model.hub_id, model.shape)


def test_a_folder_stands_in_for_the_published_model(tmp_path: Path) -> None:
    config = resolved("crossthink_7b", f"model={tmp_path}", "data=pool")
    assert (config.model.name, config.model.path, config.model.hub_id, config.model.shape) == (
        "folder", str(tmp_path), None, {},
    )  # fmt: skip
    check_model(config)


@needs_megatron
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_on_megatron_passes_every_check_that_needs_no_gpu(recipe: str, tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "model", resolved(recipe).model.shape)
    data = two_domains(tmp_path / "pool")
    words = ("actor=megatron", "rollout.servers=8", f"model.path={folder}", f"data={data}")
    if not gpu_names():
        with pytest.raises(ConfigError, match=r"actor\.transformer_engine=true needs CUDA and Transformer Engine"):
            train.check(resolved(recipe, *words))
    train.check(resolved(recipe, *words, *ON_CPU))
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("152064", "151936"))
    with pytest.raises(ConfigError, match=r"vocab_size=151936, and Qwen/Qwen2\.5-\d+B has 152064"):
        train.check(resolved(recipe, *words, *ON_CPU))


@pytest.mark.parametrize("recipe", RECIPES)
def test_down_scaled_replaces_what_it_states_and_nothing_else(recipe: str, tmp_path: Path) -> None:
    small = down_scaled(recipe, tmp_path, tmp_path, tmp_path / "run")
    changed = {key for key, _, _ in differences(resolved(recipe), small)}
    stated = {key for key, _, _ in (*REPLACED, *REPLACED_IN[recipe])}
    assert {key for key in changed if not key.startswith("model.")} == stated | {"data", "out"}
    assert small.actor.name == "aligner"
    aligner_limits.check_settings(small.actor, aligner_limits.Machine(False, False, False))


def test_the_demo_is_always_tiny() -> None:
    with pytest.raises(ConfigError, match=r"recipe=crossthink_7b does not exist. Allowed: tiny\."):
        resolve("demo", DemoConfig, ["recipe=crossthink_7b"])
