"""One step: a rollout batch with its verdicts, the optimizer steps on it, the refit."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch import Tensor

from conf.actor import OptimizerConfig
from conf.algorithm import CriticConfig
from conf.train import TrainConfig
from crossthink.errors import UserError
from recipes.actors.interface import LossFunction, MicroBatch, TokenizedSample
from recipes.rl.batch import RolloutBatch, with_per_token
from recipes.rl.credit import with_advantages, with_weights
from recipes.rl.dynamic_sampling import draw_useful
from recipes.rl.losses import ValueLoss, policy_loss
from recipes.rl.metrics import critic_metrics, policy_metrics
from recipes.rl.parts import Parts
from recipes.rl.pending import PendingRollout
from recipes.rl.records import PhaseClock
from recipes.rl.rollouts import check_invalid, rollout
from recipes.rl.skipped import Update
from recipes.rl.throughput import peak_memory_mb
from recipes.rollout.interface import LostWeightsError, RemoteEngine
from recipes.spmd import any_rank, is_first_rank

MOST_REFITS = 3
"""Refits within a step, of servers that were started again."""
PARTS_AHEAD = 4
"""Parts of a rollout whose reference log-probs are computed while the next is generated."""


def collect(config: TrainConfig, parts: Parts, step: int, clock: PhaseClock) -> tuple[RolloutBatch, dict[str, Any]]:
    """Draw prompts, generate, have everything judged; with dynamic sampling, until enough groups teach something.

    Returns:
        The batch to train on, and the metrics of dynamic sampling.

    Raises:
        UserError: the reward server cannot be reached, or too many verdicts are invalid.
    """

    if config.rollout.overlap_log_probs:
        drawn = _with_reference_ahead(config, parts, begin(config, parts, step), clock)
        check_invalid(drawn, config.reward.max_invalid)
        return drawn, {}
    elsewhere = isinstance(parts.engine, RemoteEngine)

    def draw(count: int, first: int) -> RolloutBatch:
        prompts = parts.prompts.draw(count)

        def generate() -> RolloutBatch:
            return rollout(
                parts.engine,
                parts.client,
                parts.tokenizer,
                prompts,
                config.samples_per_prompt,
                replace(parts.params, step=step),
                config.reward.think_prefilled,
                clock,
                first,
            )

        with room_for_rollouts(config, parts):
            drawn = with_weights_brought_back(parts, step, generate)
        if not elsewhere:
            lengths = drawn.lengths
            clock.ran("rollout", "prefill", lengths[:: drawn.group])  # a prompt is read once for its group
            clock.ran("rollout", "decode", lengths)
        return drawn

    def check(drawn: RolloutBatch) -> None:
        check_invalid(drawn, config.reward.max_invalid)

    return draw_useful(draw, config.prompts_per_step, config.algorithm.dynamic_sampling, check)


def with_weights_brought_back(parts: Parts, step: int, generate: Callable[[], RolloutBatch]) -> RolloutBatch:
    """What `generate` makes; where every rollout server was started again meanwhile, after a refit. Collective.

    Raises:
        UserError: as `generate`; or they lost the weights `MOST_REFITS` times, and once more.
    """
    for _ in range(MOST_REFITS if isinstance(parts.engine, RemoteEngine) else 0):
        try:
            return generate()
        except UserError as error:
            if not any_rank(isinstance(error, LostWeightsError)):  # the first rank's own kind of error
                raise
            if is_first_rank():
                print(f"crossthink: step {step}: {error} They get them once more.", file=sys.stderr, flush=True)
            parts.engine.refit(parts.actor.weights, version=step - 1)
    return generate()


def room_for_rollouts(config: TrainConfig, parts: Parts) -> contextlib.AbstractContextManager[None]:
    """The device is the rollout engine's inside the block, where that engine needs it."""
    elsewhere = isinstance(parts.engine, RemoteEngine) and not config.rollout.colocated
    return contextlib.nullcontext() if elsewhere else parts.room()


def begin(config: TrainConfig, parts: Parts, step: int) -> PendingRollout:
    """Draw the prompts of `step`, and have servers begin with it. Collective."""
    assert isinstance(parts.engine, RemoteEngine)
    return PendingRollout(
        parts.engine,
        parts.client,
        parts.tokenizer,
        parts.prompts.draw(config.prompts_per_step),
        config.samples_per_prompt,
        replace(parts.params, step=step),
        config.reward.think_prefilled,
    )


def _with_reference_ahead(
    config: TrainConfig, parts: Parts, pending: PendingRollout, clock: PhaseClock
) -> RolloutBatch:
    """The batch, with log-probs of the reference policy that were computed while later groups were generated."""
    found: dict[int, list[Tensor]] = {}
    data = dist.get_world_size() // (config.actor.tensor_parallel * config.actor.pipeline_parallel)
    # A pass needs a sample for every data-parallel rank.
    least = max(math.ceil(len(pending.prompts) / PARTS_AHEAD), math.ceil(data / config.samples_per_prompt))
    chunks = pending.groups(least)
    while len(found) < len(pending.prompts):
        with clock.phase("rollout"):
            chunk = next(chunks)
        samples = [
            TokenizedSample([*pending.prompts[p].token_ids, *one.token_ids], len(pending.prompts[p].token_ids))
            for p, group in chunk
            for one in group
        ]
        with clock.phase("log_probs"):
            log_probs = parts.actor.log_probs(samples, reference=True)
        clock.ran("log_probs", "log_probs", [(s.prompt_length, s.response_length) for s in samples])
        for place, (p, group) in enumerate(chunk):
            found[p] = log_probs[place * len(group) : (place + 1) * len(group)]
    batch = pending.finish(clock.phase)
    return replace(batch, reference_log_probs=[one for p in range(len(found)) for one in found[p]])


def refit(parts: Parts, step: int, clock: PhaseClock) -> None:
    """Bring the weights after `step` to the rollout engine. Collective.

    Raises:
        UserError: it could not take them.
    """
    with clock.phase("refit"):
        parts.engine.refit(parts.actor.weights, version=step)


def speed(parts: Parts, batch: RolloutBatch, clock: PhaseClock) -> dict[str, Any]:
    """What of the line of metrics.jsonl is known when all phases of the step are over."""
    tokens = sum(prompt + response for prompt, response in batch.lengths)
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / clock.total / dist.get_world_size(),
        **(parts.throughput.metrics(clock) if parts.throughput else {}),
        "peak_memory_mb": peak_memory_mb(),
        "seconds": {**clock.seconds, "total": clock.total},
    }


def update(
    config: TrainConfig, parts: Parts, step: int, batch: RolloutBatch, clock: PhaseClock
) -> tuple[list[Update], dict[str, Any]]:
    """The optimizer steps of one rollout batch. Returns them, and the line of metrics.jsonl but for `speed`."""
    algorithm, count = config.algorithm, config.updates_per_rollout
    tokenized = _with_predictions(config, parts, batch, clock)
    tokenized = with_advantages(batch, tokenized, algorithm, config.max_response_tokens)
    loss, value_loss = (
        as_engine_loss(policy_loss(algorithm, config.rollout.mismatch_band)),
        as_engine_loss(ValueLoss(algorithm.value_clip)),
    )
    updates: list[Update] = []
    trained: list[TokenizedSample] = []
    rates: dict[str, float] = {}
    with clock.phase("train"):
        for number, part in enumerate(batch.parts(count)):
            mine = tokenized[len(trained) : len(trained) + len(part.samples)]
            samples = with_weights(part, mine, algorithm, config.max_response_tokens)
            rates["lr"] = learning_rate(config.optimizer, (step - 1) * count + number)
            policy = parts.actor.train_step(samples, loss, rates["lr"])
            clock.ran("train", "train", part.lengths)
            critic = None
            if parts.critic:
                rates["critic_lr"] = learning_rate(config.critic, (step - 1) * count + number)
                critic = parts.critic.train_step(samples, value_loss, rates["critic_lr"])
                clock.ran("train", "train_critic", part.lengths)
            updates.append(Update(part, policy, critic))
            trained += samples
    return updates, {
        "step": step,
        **policy_metrics(updates),
        **(critic_metrics(updates, trained) if parts.critic else {}),
        **rates,
        **batch.metrics(),
        "lag": sum(sample.lag(step) for sample in batch.samples) / len(batch.samples),
        "passed_over": parts.prompts.passed_over,
    }


def _with_predictions(
    config: TrainConfig, parts: Parts, batch: RolloutBatch, clock: PhaseClock
) -> list[TokenizedSample]:
    """Add what the engines say of the rollout before anything moves: log-probs, and the critic's values."""
    algorithm, samples = config.algorithm, batch.tokenized()
    with clock.phase("log_probs"):
        if batch.reference_log_probs is not None:
            samples = with_per_token(samples, reference_log_probs=batch.reference_log_probs)
        elif algorithm.kl > 0:
            reference = parts.actor.log_probs(samples, reference=True)
            samples = with_per_token(samples, reference_log_probs=reference)
            clock.ran("log_probs", "log_probs", batch.lengths)
        # Otherwise the policy's own are those of the training step itself.
        if config.updates_per_rollout > 1 or (algorithm.kl > 0 and algorithm.kl_in == "reward"):
            samples = with_per_token(samples, old_log_probs=parts.actor.log_probs(samples))
            clock.ran("log_probs", "log_probs", batch.lengths)
    if parts.critic:
        with clock.phase("values"):
            samples = with_per_token(samples, values=parts.critic.values(samples))
            clock.ran("values", "values", batch.lengths)
    return samples


def learning_rate(settings: OptimizerConfig | CriticConfig, update: int) -> float:
    """Constant after a linear warm-up, counted in optimizer steps from 0."""
    warm = settings.warmup_steps
    return settings.lr * min(1.0, (update + 1) / warm) if warm else settings.lr


def as_engine_loss(loss: Callable[..., Any]) -> LossFunction:
    """A loss of this package as engines call it."""

    def call(predicted_bt: Any, batch: MicroBatch) -> Any:
        device = predicted_bt.device
        return loss(predicted_bt, {name: values.to(device) for name, values in batch.per_token_bt.items()})

    return call
