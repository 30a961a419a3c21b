"""From the command's configuration to a job in which nothing is open: the model's shape, the ranks, the formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.actor import ActorConfig
from conf.plan import EfficiencyConfig, PlanConfig
from crossthink.errors import ConfigError
from recipes.actors.aligner import limits as aligner_limits
from recipes.actors.mcore.limits import Machine, check_batch
from recipes.actors.mcore.pipeline import layers_of_stage
from recipes.actors.mcore.precision import Precision, resolve_precision
from recipes.actors.megatron import limits as megatron_limits
from recipes.checks import check_algorithm, check_numbers, check_rollout
from recipes.models.families import read_shape
from recipes.models.model_folder import check_published, check_shape, read_model_config
from recipes.models.tiny_shape import TINY_SHAPE, TINY_VOCABULARY
from recipes.nodes import check_nodes, with_servers
from recipes.planning.gpus import gpu_of, peak_flops
from recipes.planning.interface import Gpu, Job

LIMITS = {"megatron": megatron_limits, "aligner": aligner_limits}

# What the shapes of conf/model/ leave out of config.json: both are Qwen2.5, whose files state these.
_PUBLISHED = {"model_type": "qwen2", "rope_theta": 1e6}


def make_job(config: PlanConfig) -> Job:
    """Decide what the configuration leaves open, as the run would on that hardware, and refuse what it would refuse.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    check_numbers(config)
    _check_numbers(config)
    check_algorithm(config)
    if config.actor.name not in LIMITS:
        raise ConfigError(f"actor={config.actor.name} is not allowed. Allowed: {', '.join(LIMITS)}.")
    gpu = gpu_of(config.gpu)
    precision = _precision(config.actor, gpu)
    model, where = model_config(config)
    world = check_nodes(config)
    data = world // (config.actor.tensor_parallel * config.actor.pipeline_parallel)
    check_shape(model, config.actor.tensor_parallel, config.actor.pipeline_parallel, where)
    LIMITS[config.actor.name].check_layers(config.actor, model)
    check_batch(config.prompts_per_step * config.samples_per_prompt // config.updates_per_rollout, data)
    rollout_gpus = config.nodes.rollout * config.nodes.gpus_per_node
    config = with_servers(config)
    check_rollout(config)
    return Job(
        config=replace(config, actor=decided(config.actor, precision, data, on_gpu=gpu is not None)),
        shape=read_shape(model, where),
        gpu=gpu,
        world=world,
        rollout_gpus=rollout_gpus,
        gpus_per_node=config.nodes.gpus_per_node,
        prompt=config.mean_prompt_tokens,
        response=config.mean_response_tokens,
    )


def model_config(config: PlanConfig) -> tuple[dict[str, Any], str]:
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


def decided(settings: ActorConfig, precision: Precision, data: int, *, on_gpu: bool) -> ActorConfig:
    """`actor.*` with its null keys filled in as the engines do it.

    Sources: packs_sequences of recipes/actors/megatron/model.py, Sharing.of of recipes/actors/megatron/optimizer.py,
    and _optimizer of recipes/actors/aligner/config.py.
    """
    aligner = settings.name == "aligner"
    distributed, overlap, packing = settings.distributed_optimizer, settings.overlap, settings.packing
    if distributed is None:
        distributed = on_gpu if aligner else data > 1
    if overlap is None:
        overlap = on_gpu
    if packing is None:
        packing = not aligner and precision.transformer_engine and precision.dtype == "bfloat16"
    return replace(
        settings,
        data_parallel=data,
        dtype=precision.dtype,
        transformer_engine=precision.transformer_engine,
        distributed_optimizer=distributed,
        overlap=overlap and data > 1,
        packing=packing,
    )


def stage_layers(job: Job) -> list[int]:
    """Decoder layers of each pipeline stage."""
    actor = job.config.actor
    return layers_of_stage(
        job.shape.layers, actor.pipeline_parallel, actor.pipeline_first_layers, actor.pipeline_last_layers
    )


def _check_numbers(config: PlanConfig) -> None:
    """What is of the plan alone; the rest is the run's: `recipes.checks`, `recipes.nodes`."""
    for key, value, low in (
        ("rollout.trtllm.tensor_parallel", config.rollout.trtllm.tensor_parallel, 1),
        ("mean_prompt_tokens", config.mean_prompt_tokens, 1),
        ("mean_response_tokens", config.mean_response_tokens, 1),
        ("length_spread", config.length_spread, 0),
        ("show", config.show, 1),
        ("efficiency.decode_overhead_ms", config.efficiency.decode_overhead_ms, 0),
    ):
        if value < low:
            raise ConfigError(f"{key}={value} is too small: at least {low}.")
    for key, value, most_key, most in (
        ("mean_prompt_tokens", config.mean_prompt_tokens, "max_prompt_tokens", config.max_prompt_tokens),
        ("mean_response_tokens", config.mean_response_tokens, "max_response_tokens", config.max_response_tokens),
    ):
        if value > most:
            raise ConfigError(f"{key}={value} is more than {most_key}={most}: a mean is at most the longest.")
    if config.length_spread > 3:
        raise ConfigError(f"length_spread={config.length_spread} is out of range: 0 to 3.")
    if config.prompts_per_step % config.updates_per_rollout:
        raise ConfigError(
            f"updates_per_rollout={config.updates_per_rollout} does not divide prompts_per_step="
            f"{config.prompts_per_step}: each optimizer step takes an equal number of whole groups."
        )
    for key in EfficiencyConfig.__dataclass_fields__:
        value = getattr(config.efficiency, key)
        if key != "decode_overhead_ms" and not 0.01 <= value <= 1.0:
            raise ConfigError(f"efficiency.{key}={value} is out of range: 0.01 to 1.0.")


def _precision(settings: ActorConfig, gpu: Gpu | None) -> Precision:
    """Number formats on that hardware, where its containers' Transformer Engine and apex are."""
    there = gpu is not None
    if settings.name == "aligner":
        aligner_limits.check_settings(settings, Machine(there, there, there))
    else:
        megatron_limits.check_settings(settings, Machine(there, there, there))
    found = resolve_precision(settings, cuda=there, transformer_engine=there)
    if gpu is not None and found.fp8 != "off":
        peak_flops(gpu, "fp8")
    return found
