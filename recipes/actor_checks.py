"""Whether an actor, a model and parallel sizes go together: what `train` and `plan` ask before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conf.train import TrainConfig
from crossthink.errors import ConfigError
from recipes.actors.aligner import limits as aligner_limits
from recipes.actors.mcore.limits import Machine, check_batch
from recipes.actors.megatron import limits as megatron_limits
from recipes.environment import check_environment
from recipes.models.model_folder import check_published, check_shape, read_model_config
from recipes.models.tiny_shape import TINY_SHAPE, TINY_VOCABULARY

LIMITS = {"megatron": megatron_limits, "aligner": aligner_limits}

# What the shapes of conf/model/ leave out of config.json: both are Qwen2.5, whose files state these.
_PUBLISHED = {"model_type": "qwen2", "rope_theta": 1e6}


def check_actor(config: TrainConfig, world: int, machine: Machine | None) -> tuple[dict[str, Any], str]:
    """Refuse an actor that could not train the model on so many ranks.

    Args:
        config: of a run whose numbers are possible (`recipes.checks.check_numbers`).
        world: ranks.
        machine: where it would run; None: here, in this environment.

    Returns:
        See `model_config`.

    Raises:
        ConfigError: names key, value and what is allowed, or shows the arithmetic.
        UserError: this environment is not the actor's.
    """
    actor = config.actor
    if actor.name not in LIMITS:
        raise ConfigError(f"actor={actor.name} is not allowed. Allowed: {', '.join(LIMITS)}.")
    if machine is None:
        check_environment(actor.name)
    limits = LIMITS[actor.name]
    limits.check_settings(actor, machine)
    model, where = model_config(config)
    check_shape(model, actor.tensor_parallel, actor.pipeline_parallel, where)
    limits.check_layers(actor, model)
    samples = config.prompts_per_step * config.samples_per_prompt // config.updates_per_rollout
    check_batch(samples, world // (actor.tensor_parallel * actor.pipeline_parallel))
    return model, where


def model_config(config: TrainConfig) -> tuple[dict[str, Any], str]:
    """The model's `config.json`, and what messages call it.

    It comes from the folder in model.path, else from the published shape in conf/model/, or is the tiny model's.

    Raises:
        ConfigError: none of these is there, or the folder holds another model than the published one.
    """
    model = config.model
    if model.path is not None:
        folder = Path(model.path)
        if model.hub_id is not None:
            check_published(folder, model.hub_id, model.shape)
        return read_model_config(folder), str(folder)
    if model.name == "tiny":
        return {**TINY_SHAPE, "vocab_size": TINY_VOCABULARY}, "model=tiny"
    if not model.shape:
        raise ConfigError("model.path= is missing. Give model=FOLDER, a Hugging Face folder; its config.json will do.")
    return {**_PUBLISHED, **model.shape}, model.hub_id or model.name
