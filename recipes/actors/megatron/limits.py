"""Which parallel sizes and engine options go together, told without torch and before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conf.actor import ActorConfig
from crossthink.errors import ConfigError
from recipes.actors.mcore.limits import Machine, check_choices, check_sequence_parallel, this_machine
from recipes.actors.mcore.pipeline import layers_of_stage
from recipes.actors.mcore.precision import DTYPES, FP8, resolve_precision
from recipes.actors.mcore.recompute import RECOMPUTE

CHOICES = {
    "recompute": RECOMPUTE,
    "dtype": (None, *DTYPES),
    "fp8": FP8,
    "reference": ("resident", "offload"),
}


def check_settings(settings: ActorConfig, machine: Machine | None = None) -> None:
    """Refuse values and combinations that no machine, or not this one, can run.

    Args:
        settings: `actor.*`.
        machine: where it would run; None: this one.

    Raises:
        ConfigError: names key, value and what is allowed or missing.
    """
    check_choices(settings, CHOICES)
    check_sequence_parallel(settings)
    if settings.fp8_bf16_layers < 0:
        raise ConfigError(f"actor.fp8_bf16_layers={settings.fp8_bf16_layers} is too small: at least 0.")
    if settings.fp8_bf16_layers and settings.fp8 in ("off", "delayed"):
        raise ConfigError(
            f"actor.fp8_bf16_layers={settings.fp8_bf16_layers} needs actor.fp8=current or blockwise, and it is "
            f"{settings.fp8}: under delayed scaling all layers share one record of maxima."
        )
    if settings.fp8 != "off" or settings.transformer_engine:
        machine = this_machine() if machine is None else machine
        resolve_precision(settings, cuda=machine.cuda, transformer_engine=machine.transformer_engine)


def check_layers(settings: ActorConfig, model: Mapping[str, Any]) -> None:
    """Refuse pipelines that the model's layers cannot fill.

    Args:
        settings: `actor.*`.
        model: the model's `config.json`.

    Raises:
        ConfigError: shows the arithmetic.
    """
    counts = layers_of_stage(
        model["num_hidden_layers"],
        settings.pipeline_parallel,
        settings.pipeline_first_layers,
        settings.pipeline_last_layers,
    )
    most = min(counts[0], counts[-1], model["num_hidden_layers"] // settings.pipeline_parallel)
    if settings.fp8_bf16_layers > most:
        raise ConfigError(
            f"actor.fp8_bf16_layers={settings.fp8_bf16_layers} is more than {most}: the first and the last of "
            f"{settings.pipeline_parallel} pipeline stages hold {counts[0]} and {counts[-1]} of "
            f"{model['num_hidden_layers']} layers."
        )
