"""What holds for any engine on megatron-core, told without torch and before anything starts."""

from __future__ import annotations

from crossthink.errors import ConfigError


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
