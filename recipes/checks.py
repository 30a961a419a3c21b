"""What of a training config can work: the model, the keys of the algorithm and of checkpoints."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from conf.algorithm import ALGORITHMS, AVERAGES, KL_ESTIMATORS, KL_PLACES, AlgorithmConfig
from conf.compose import options
from conf.reward import RewardConfig, ShapingConfig
from conf.rollout import ENGINES, KV_DTYPES, TRANSPORTS
from conf.train import BEST_METRICS, TrainConfig
from crossthink.errors import ConfigError
from reward_server import shaping
from reward_server.verdicts import MATCHES

# Keys that one of the two algorithms has no use for.
ONLY_OF = {
    "grpo": ("divide_by_std", "dynamic_sampling"),
    "ppo": ("gamma", "gae_lambda", "value_clip", "whiten"),
}

# Options of `rollout` that nothing but servers has.
ONLY_WITH_SERVERS = ("lag", "overlap_log_probs", "colocated", "uncorrected")


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


def check_checkpoint(config: TrainConfig) -> None:
    """Refuse options of `checkpoint` that cannot work.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    checkpoint = config.checkpoint
    for key, value in (("every", checkpoint.every), ("keep", checkpoint.keep)):
        if value < 1:
            raise ConfigError(f"checkpoint.{key}={value} is too small: at least 1.")
    if not 0.0 <= checkpoint.margin_s <= 86400.0:
        raise ConfigError(f"checkpoint.margin_s={checkpoint.margin_s} is out of range: 0.0 to 86400.0.")
    if checkpoint.best is not None:
        if checkpoint.best not in BEST_METRICS:
            raise ConfigError(
                f"checkpoint.best={checkpoint.best} is not allowed. Allowed: {', '.join(BEST_METRICS)} (or null)."
            )
        if not config.eval.every:
            raise ConfigError(
                f"checkpoint.best={checkpoint.best} needs eval.every=N: without evaluations there is no best."
            )


def check_rollout(config: TrainConfig) -> None:
    """Refuse rollout servers, and ways of using them, that cannot work.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    rollout = config.rollout
    for key, value, allowed in (
        ("rollout", rollout.name, ENGINES),
        ("rollout.transport", rollout.transport, TRANSPORTS),
        ("rollout.trtllm.kv_cache_dtype", rollout.trtllm.kv_cache_dtype, KV_DTYPES),
        ("rollout.lag", rollout.lag, (0, 1)),
    ):
        if value not in allowed:
            raise ConfigError(f"{key}={value} is not allowed. Allowed: {', '.join(map(str, allowed))}.")
    if rollout.url and rollout.servers and rollout.name == "local":
        raise ConfigError(
            f"rollout.servers={rollout.servers} starts own servers, and rollout.url={rollout.url} names others. "
            "Drop one of the two."
        )
    _check_addresses("rollout.url", rollout.url)
    if rollout.token is not None and not has_rollout_servers(config):
        raise ConfigError("rollout.token is the secret of rollout servers, and the run has none. Drop it.")
    if not has_rollout_servers(config):
        if rollout.name == "trtllm":
            raise ConfigError(
                "rollout=trtllm runs in servers: give rollout.servers=N, or rollout.url=[...] of those that run. "
                "`crossthink submit` counts them by nodes.rollout=."
            )
        for key in ONLY_WITH_SERVERS:
            if value := getattr(rollout, key):
                raise ConfigError(f"rollout.{key}={value} needs rollout.servers=N or rollout.url=[...].")
    if rollout.lag:
        _check_lag(config)
    if rollout.overlap_log_probs:
        _check_overlap(config)


def has_rollout_servers(config: TrainConfig) -> bool:
    """Whether others than the actor's ranks generate."""
    return bool(config.rollout.url or config.rollout.servers)


def _check_lag(config: TrainConfig) -> None:
    algorithm, rollout = config.algorithm, config.rollout
    if algorithm.importance_cap is None and not rollout.uncorrected:
        raise ConfigError(
            "rollout.lag=1 trains on rollouts of the weights before: set algorithm.importance_cap=2.0 (truncated "
            "importance sampling), or rollout.uncorrected=true to see what happens without."
        )
    for key, value in (
        ("algorithm.dynamic_sampling", algorithm.dynamic_sampling),
        ("rollout.colocated", rollout.colocated),
        ("rollout.overlap_log_probs", rollout.overlap_log_probs),
    ):
        if value:
            raise ConfigError(f"{key}={value} does not go with rollout.lag=1. Drop one of the two.")


def _check_overlap(config: TrainConfig) -> None:
    if config.algorithm.kl == 0:
        raise ConfigError("rollout.overlap_log_probs=true has no use with algorithm.kl=0, without a reference policy.")
    for key, value in (
        ("algorithm.dynamic_sampling", config.algorithm.dynamic_sampling),
        ("rollout.colocated", config.rollout.colocated),
    ):
        if value:
            raise ConfigError(f"{key}={value} does not go with rollout.overlap_log_probs=true. Drop one of the two.")


def check_model(config: TrainConfig) -> None:
    """Refuse a model that is unknown or not there, and a run on it without data.

    Raises:
        ConfigError: names the key to give, and what to download where the model is a published one.
    """
    model = config.model
    known = ("tiny", *(name for name in options("model") if name != "tiny"))
    if model.name not in known:
        raise ConfigError(f"model.name={model.name} is not allowed. Allowed: {', '.join(known)}.")
    if model.name == "tiny":
        if model.path is not None:
            raise ConfigError(f"model=tiny makes its own model, so model.path={model.path} has no use. Drop one.")
        return
    if model.path is None and model.hub_id is None:
        raise ConfigError("model.path= is missing. Give model=FOLDER, a Hugging Face folder.")
    if model.path is None:
        raise ConfigError(
            f"model.path= is missing. model={model.name} is {model.hub_id} of the Hugging Face Hub: download it "
            f"(`hf download {model.hub_id} --local-dir FOLDER`) and give model.path=FOLDER."
        )
    if config.data is None:
        raise ConfigError("data= is required: a pool folder made by `crossthink prep`.")


def _or_one(number: int | None) -> int:
    return 1 if number is None else number


def check_numbers(config: TrainConfig) -> None:
    """Refuse numbers that no run can have.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    for key, value, low in (
        ("steps", config.steps, 1),
        ("prompts_per_step", config.prompts_per_step, 1),
        ("samples_per_prompt", config.samples_per_prompt, 2),
        ("updates_per_rollout", config.updates_per_rollout, 1),
        ("micro_batch_tokens", config.micro_batch_tokens, 1),
        ("max_prompt_tokens", config.max_prompt_tokens, 1),
        ("max_response_tokens", config.max_response_tokens, 1),
        ("actor.tensor_parallel", config.actor.tensor_parallel, 1),
        ("actor.pipeline_parallel", config.actor.pipeline_parallel, 1),
        ("actor.data_parallel", _or_one(config.actor.data_parallel), 1),
        ("actor.threads", _or_one(config.actor.threads), 1),
        ("eval.every", config.eval.every, 0),
        ("warm_start.steps", config.warm_start.steps, 1),
        ("seed", config.seed, 0),
    ):
        if value < low:
            raise ConfigError(f"{key}={value} is too small: at least {low}.")
    if config.prompts_per_step % config.updates_per_rollout:
        raise ConfigError(
            f"updates_per_rollout={config.updates_per_rollout} does not divide prompts_per_step="
            f"{config.prompts_per_step}: each optimizer step takes an equal number of whole groups."
        )
    for key, number, least, most in (
        ("sampling.temperature", config.sampling.temperature, 0.01, 100.0),
        ("sampling.top_p", config.sampling.top_p, 0.01, 1.0),
        ("optimizer.lr", config.optimizer.lr, 0.0, 1.0),
        ("reward.max_invalid", config.reward.max_invalid, 0.0, 1.0),
        ("reward.deadline_s", config.reward.deadline_s, 0.1, 86400.0),
        ("reward.outage_limit_s", config.reward.outage_limit_s, 0.1, 604800.0),
        ("warm_start.right_share", config.warm_start.right_share, 0.0, 1.0),
    ):
        if not least <= number <= most:
            raise ConfigError(f"{key}={number} is out of range: {least} to {most}.")


def check_reward(reward: RewardConfig) -> None:
    """Refuse rules that no reward server has, or that those in reward.url would not hear of; and false addresses there.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    if reward.match not in MATCHES:
        raise ConfigError(f"reward.match={reward.match} is not allowed. Allowed: {', '.join(MATCHES)}.")
    _check_addresses("reward.url", reward.url)
    if reward.url and reward.shaping != ShapingConfig():
        raise ConfigError(
            f"reward.shaping is for the run's own reward server, and reward.url={reward.url} names others. Give it to "
            "them (`crossthink serve-reward shaping.KEY=VALUE`), or drop one of the two."
        )
    try:
        shaping.check(reward.shaping)
    except ConfigError as error:
        raise ConfigError(f"reward.{error}") from error


def _check_addresses(key: str, urls: Sequence[str]) -> None:
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{key}={url} is no address: http://HOST:PORT.")


def check_profile(config: TrainConfig) -> None:
    """Refuse a range of steps to trace that the run does not have.

    Raises:
        ConfigError: shows both numbers and the run's.
    """
    steps = config.profile.steps
    if steps is None:
        return
    if len(steps) != 2 or not 1 <= steps[0] <= steps[1] <= config.steps:
        raise ConfigError(
            f"profile.steps={steps} is not allowed: [a, b] with 1 <= a <= b <= steps={config.steps}, or null."
        )


def check_tracking(config: TrainConfig) -> None:
    """Refuse trackers that are not installed, and options that no tracker would use.

    Raises:
        ConfigError: names the extra to install, or the key.
    """
    tracking = config.tracking
    for package in ("wandb", "mlflow"):
        if getattr(tracking, package) and not _installed(package):
            raise ConfigError(
                f"tracking.{package}=true needs the package {package}: pip install 'crossthink[{package}]'."
            )
    if tracking.mlflow_uri is not None and not tracking.mlflow:
        raise ConfigError(f"tracking.mlflow_uri={tracking.mlflow_uri} has no use without tracking.mlflow=true.")


def _installed(package: str) -> bool:
    # A folder of that name, as offline runs of W&B leave one, is found too, but has no code.
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def _ranges(config: TrainConfig) -> tuple[tuple[str, Any, float, float], ...]:
    """(key, value, least, most); a value of None is not checked."""
    algorithm, critic, rollout = config.algorithm, config.critic, config.rollout
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
        ("critic.port", critic.port, 1, 65535),
        ("critic.deadline_s", critic.deadline_s, 0.1, 604800.0),
        ("rollout.batch_size", rollout.batch_size, 1, 10**6),
        ("rollout.servers", rollout.servers, 0, 1024),
        ("rollout.bucket_mb", rollout.bucket_mb, 0.001, 4096.0),
        ("rollout.deadline_s", rollout.deadline_s, 0.1, 604800.0),
        ("rollout.refit_deadline_s", rollout.refit_deadline_s, 0.1, 604800.0),
        ("rollout.outage_limit_s", rollout.outage_limit_s, 0.1, 604800.0),
        ("rollout.mismatch_band", rollout.mismatch_band, 0.0, 100.0),
        ("rollout.max_mismatch", rollout.max_mismatch, 0.0, 100.0),
        ("optimizer.max_skipped", config.optimizer.max_skipped, 1, 10**6),
    )
