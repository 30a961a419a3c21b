"""What holds for any engine on megatron-core, told without torch and before anything starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf.actor import ActorConfig
from crossthink.errors import ConfigError
from recipes.machine import gpu_names


@dataclass(frozen=True)
class Machine:
    """What of the GPU stack a machine has.

    Attributes:
        cuda: there is a GPU.
        transformer_engine: Transformer Engine is installed.
        apex: apex is installed.
    """

    cuda: bool
    transformer_engine: bool
    apex: bool


def this_machine() -> Machine:
    """What is here, told without importing it."""
    found = (importlib.util.find_spec(package) is not None for package in ("transformer_engine", "apex"))
    return Machine(bool(gpu_names()), *found)


def check_choices(settings: ActorConfig, choices: Mapping[str, Sequence[str | None]]) -> None:
    """Refuse values that an engine does not know.

    Args:
        settings: `actor.*`.
        choices: what is allowed, by key.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    for key, allowed in choices.items():
        value = getattr(settings, key)
        if value not in allowed:
            known = ", ".join("null" if choice is None else choice for choice in allowed)
            raise ConfigError(f"actor.{key}={value} is not allowed. Allowed: {known}.")


def check_sequence_parallel(settings: ActorConfig) -> None:
    """Refuse sequence parallelism where nobody shares a sequence.

    Raises:
        ConfigError: names both keys.
    """
    if settings.sequence_parallel and settings.tensor_parallel == 1:
        raise ConfigError(
            "actor.sequence_parallel=true needs actor.tensor_parallel of at least 2, and it is 1: the tensor-parallel "
            "ranks are those that share a sequence."
        )


def check_batch(samples: int, data: int) -> None:
    """Refuse optimizer steps with fewer samples than data-parallel ranks.

    Args:
        samples: of one optimizer step.
        data: data-parallel ranks.

    Raises:
        ConfigError: shows both numbers.
    """
    if samples < data:
        raise ConfigError(
            f"An optimizer step has prompts_per_step × samples_per_prompt / updates_per_rollout = {samples} samples, "
            f"fewer than the {data} data-parallel ranks: each rank needs one."
        )
