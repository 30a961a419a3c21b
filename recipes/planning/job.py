"""From the command's configuration to a job in which nothing is open: the model's shape, the ranks, the formats."""

from __future__ import annotations

import math
from dataclasses import replace

from conf.actor import ActorConfig
from conf.plan import EfficiencyConfig, PlanConfig
from crossthink.errors import ConfigError
from recipes.actor_checks import check_actor
from recipes.actors.mcore.limits import Machine
from recipes.actors.mcore.pipeline import layers_of_stage
from recipes.actors.mcore.precision import Precision, resolve_precision
from recipes.checks import check_algorithm, check_numbers, check_rollout
from recipes.models.families import read_shape
from recipes.nodes import check_nodes, with_servers
from recipes.planning.gpus import gpu_of, peak_flops
from recipes.planning.interface import Gpu, Job


def make_job(config: PlanConfig) -> Job:
    """Decide what the configuration leaves open, as the run would on that hardware, and refuse what it would refuse.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    check_numbers(config)
    _check_numbers(config)
    check_algorithm(config)
    gpu, world = gpu_of(config.gpu), check_nodes(config)
    there = gpu is not None  # and with it what the containers have
    model, where = check_actor(config, world, Machine(there, there, there))
    precision = _precision(config.actor, gpu)
    data = world // (config.actor.tensor_parallel * config.actor.pipeline_parallel)
    rollout_gpus = config.nodes.rollout * config.nodes.gpus_per_node
    config = with_servers(config)
    check_rollout(config)
    return Job(
        config=replace(config, actor=decided(config.actor, precision, data, on_gpu=there)),
        shape=read_shape(model, where),
        gpu=gpu,
        world=world,
        rollout_gpus=rollout_gpus,
        gpus_per_node=config.nodes.gpus_per_node,
        prompt=config.mean_prompt_tokens,
        response=config.mean_response_tokens,
    )


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
        if not math.isfinite(value):
            raise ConfigError(f"{key}={value} is not allowed: a finite number, at least {low}.")
    for key, value, most_key, most in (
        ("mean_prompt_tokens", config.mean_prompt_tokens, "max_prompt_tokens", config.max_prompt_tokens),
        ("mean_response_tokens", config.mean_response_tokens, "max_response_tokens", config.max_response_tokens),
    ):
        if value > most:
            raise ConfigError(f"{key}={value} is more than {most_key}={most}: a mean is at most the longest.")
    if not 0 <= config.length_spread <= 3:
        raise ConfigError(f"length_spread={config.length_spread} is out of range: 0 to 3.")
    for key in EfficiencyConfig.__dataclass_fields__:
        value = getattr(config.efficiency, key)
        if key != "decode_overhead_ms" and not 0.01 <= value <= 1.0:
            raise ConfigError(f"efficiency.{key}={value} is out of range: 0.01 to 1.0.")


def _precision(settings: ActorConfig, gpu: Gpu | None) -> Precision:
    """Number formats on that hardware, where its containers' Transformer Engine is.

    Raises:
        ConfigError: the GPU lacks the format.
    """
    found = resolve_precision(settings, cuda=gpu is not None, transformer_engine=gpu is not None)
    if gpu is not None and found.fp8 != "off":
        peak_flops(gpu, "fp8")
    return found
