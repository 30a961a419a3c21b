"""What of a training config can work: the algorithm's keys."""

from __future__ import annotations

from typing import Any

from conf.algorithm import ALGORITHMS, AVERAGES, KL_ESTIMATORS, KL_PLACES, AlgorithmConfig
from conf.train import TrainConfig
from crossthink.errors import ConfigError

# Keys that one of the two algorithms has no use for.
ONLY_OF = {
    "grpo": ("divide_by_std", "dynamic_sampling"),
    "ppo": ("gamma", "gae_lambda", "value_clip", "whiten"),
}


def check_algorithm(config: TrainConfig) -> None:
    """Refuse algorithm options that are unknown, out of range or of no use, naming key, value and what is allowed.

    Raises:
        ConfigError: see above.
    """
    algorithm = config.algorithm
    for key, value, allowed in (
        ("algorithm", algorithm.name, ALGORITHMS),
        ("algorithm.kl_estimator", algorithm.kl_estimator, KL_ESTIMATORS),
        ("algorithm.kl_in", algorithm.kl_in, KL_PLACES),
        ("algorithm.average", algorithm.average, AVERAGES),
    ):
        if value not in allowed:
            raise ConfigError(f"{key}={value} is not allowed. Allowed: {', '.join(allowed)}.")
    for key, value, low, high in _ranges(config):
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{key}={value} is out of range: {low} to {high}.")
    if algorithm.dual_clip is not None and not algorithm.dual_clip > 1:
        raise ConfigError(
            f"algorithm.dual_clip={algorithm.dual_clip} must be above 1: the ratio of a policy that has not moved is 1."
        )
    if algorithm.importance_cap is not None and not algorithm.importance_cap > 0:
        raise ConfigError(f"algorithm.importance_cap={algorithm.importance_cap} must be above 0.")
    if algorithm.overlong_buffer > config.max_response_tokens:
        raise ConfigError(
            f"algorithm.overlong_buffer={algorithm.overlong_buffer} is more than max_response_tokens="
            f"{config.max_response_tokens}: it is the last part of a response."
        )
    for other in set(ONLY_OF) - {algorithm.name}:
        for key in ONLY_OF[other]:
            value = getattr(algorithm, key)
            if value != getattr(AlgorithmConfig, key):
                raise ConfigError(
                    f"algorithm.{key}={value} has no use with algorithm={algorithm.name}: it is an option of {other}. "
                    f"Drop it, or choose algorithm={other}."
                )


def _ranges(config: TrainConfig) -> tuple[tuple[str, Any, float, float], ...]:
    """(key, value, least, most); a value of None is not checked."""
    algorithm, critic = config.algorithm, config.critic
    return (
        ("algorithm.kl", algorithm.kl, 0.0, 100.0),
        ("algorithm.clip", algorithm.clip, 0.0, 1.0),
        ("algorithm.clip_high", algorithm.clip_high, 0.0, 100.0),
        ("algorithm.overlong_buffer", algorithm.overlong_buffer, 0, 10**9),
        ("algorithm.overlong_penalty", algorithm.overlong_penalty, 0.0, 100.0),
        ("algorithm.advantage_epsilon", algorithm.advantage_epsilon, 0.0, 1.0),
        ("algorithm.dynamic_sampling", algorithm.dynamic_sampling, 0, 1000),
        ("algorithm.gamma", algorithm.gamma, 0.0, 1.0),
        ("algorithm.gae_lambda", algorithm.gae_lambda, 0.0, 1.0),
        ("algorithm.value_clip", algorithm.value_clip, 0.0, 100.0),
        ("critic.lr", critic.lr, 0.0, 1.0),
        ("critic.warmup_steps", critic.warmup_steps, 0, 10**9),
        ("critic.clip_grad", critic.clip_grad, 0.0, 1e9),
        ("optimizer.max_skipped", config.optimizer.max_skipped, 1, 10**6),
    )
