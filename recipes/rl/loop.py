"""The training loop: rollout → score → advantages → step → refit → log → checkpoint. Every rank runs it (SPMD)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from conf.actor import OptimizerConfig
from conf.algorithm import CriticConfig
from conf.train import TrainConfig
from crossthink.errors import StoppedEarly, UserError
from recipes.actors.interface import Actor, Critic, LossFunction, MicroBatch, TokenizedSample
from recipes.rl import checkpoints
from recipes.rl.batch import RolloutBatch, with_per_token
from recipes.rl.credit import with_advantages, with_weights
from recipes.rl.dynamic_sampling import draw_useful
from recipes.rl.losses import ValueLoss, policy_loss
from recipes.rl.metrics import critic_metrics, policy_metrics
from recipes.rl.prompts import PromptStream
from recipes.rl.records import PhaseClock, Records
from recipes.rl.rollouts import Judge, check_invalid, rollout
from recipes.rl.skipped import SkippedSteps, Update
from recipes.rl.spmd import any_rank, is_first_rank
from recipes.rl.stop import StopRequest
from recipes.rollout.interface import RolloutEngine, SamplingParams
from recipes.run_files import BAD_BATCHES, rollout_file


class Progress(Protocol):
    """Shows a person where the run is."""

    def step(self, metrics: dict[str, Any]) -> None: ...


class Evaluator(Protocol):
    """Greedy evaluation on held-out questions, with the weights the engine has now."""

    def __call__(self, step: int) -> dict[str, Any]: ...


@dataclass
class Parts:
    """Everything the loop drives. `client`, `records` and `progress` exist on rank 0 only, `critic` with PPO only."""

    actor: Actor
    engine: RolloutEngine
    prompts: PromptStream
    tokenizer: PreTrainedTokenizerBase
    params: SamplingParams
    client: Judge | None
    records: Records | None
    progress: Progress | None
    evaluate: Evaluator | None
    critic: Critic | None = None

    @property
    def engines(self) -> list[Actor | Critic]:
        """What is trained."""
        return [self.actor, *([self.critic] if self.critic else [])]

    def save(self, folder: Path) -> None:
        """Write the engines' part of a checkpoint. Collective."""
        for engine in self.engines:
            engine.save(folder)

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Inside the block the device is the rollout engine's, as far as `actor.offload` says."""
        for engine in self.engines:
            engine.offload()
        try:
            yield
        finally:
            for engine in self.engines:
                engine.onload()


def train(config: TrainConfig, parts: Parts, start: int, skipped: int = 0) -> None:
    """Train from after step `start` to `config.steps`; the last `skipped` optimizer steps before it were skipped.

    Raises:
        StoppedEarly: SIGINT or SIGTERM came; the step was finished and everything is saved.
        UserError: the rewards cannot be had or trusted, or too many losses or gradients in a row were not finite; the
            state after the last whole step is saved first.
    """
    with StopRequest() as stop:
        _train(config, parts, start, SkippedSteps(config.optimizer.max_skipped, skipped), stop)


def _train(config: TrainConfig, parts: Parts, start: int, skips: SkippedSteps, stop: StopRequest) -> None:
    out = Path(config.out)
    saved = start
    parts.engine.refit(parts.actor.weights(), version=start)
    if start == 0 and parts.evaluate:
        _record_evaluation(parts, 0)
    for step in range(start + 1, config.steps + 1):
        before = _state(step - 1, parts, skips)
        clock = PhaseClock()
        try:
            batch, draws = collect(config, parts, step, clock)
        except UserError as error:
            # Nothing was updated yet, so this is still the state after the last step: it must not be lost.
            if saved < step - 1:
                checkpoints.save(out, step - 1, parts, before, config.checkpoint.keep)
            kept = (
                f"step {step - 1} is saved in {out}; resume=true continues" if step > 1 else "no step was finished yet"
            )
            raise _with_note(error, f"Step {step} of {config.steps}: ", f" ({kept}.)") from error
        updates, metrics = update(config, parts, step, batch, clock)
        metrics |= draws
        skipped = skips.count(updates)
        if parts.records:
            parts.records.step(metrics, batch)
            if skipped:
                parts.records.bad_batch(step, [sample for one in skipped for sample in one.part.samples])
        if parts.progress:
            parts.progress.step(metrics)
        if parts.evaluate and step % config.eval.every == 0:
            _record_evaluation(parts, step)
        stopping = any_rank(stop.requested)
        if stopping or skips.reached or step % config.checkpoint.every == 0 or step == config.steps:
            checkpoints.save(out, step, parts, _state(step, parts, skips), config.checkpoint.keep)
            saved = step
        if skips.reached:
            raise skips.error(step, skipped[-1], rollout_file(out, step, BAD_BATCHES), out)
        if stopping and step < config.steps:
            raise StoppedEarly(f"Stopped after step {step} of {config.steps}, saved in {out}. Continue: resume=true.")


def collect(config: TrainConfig, parts: Parts, step: int, clock: PhaseClock) -> tuple[RolloutBatch, dict[str, Any]]:
    """Draw prompts, generate, have everything judged; with dynamic sampling, until enough groups teach something.

    Returns:
        The batch to train on, and the metrics of dynamic sampling.

    Raises:
        UserError: the reward server cannot be reached, or too many verdicts are invalid.
    """

    def draw(count: int, first: int) -> RolloutBatch:
        with parts.room():
            return rollout(
                parts.engine,
                parts.client,
                parts.tokenizer,
                parts.prompts.draw(count),
                config.samples_per_prompt,
                replace(parts.params, step=step),
                config.reward.think_prefilled,
                clock,
                first,
            )

    def check(drawn: RolloutBatch) -> None:
        check_invalid(drawn, config.reward.max_invalid)

    return draw_useful(draw, config.prompts_per_step, config.algorithm.dynamic_sampling, check)


def update(
    config: TrainConfig, parts: Parts, step: int, batch: RolloutBatch, clock: PhaseClock
) -> tuple[list[Update], dict[str, Any]]:
    """The optimizer steps of one rollout batch, then the refit. Returns them, and the line of metrics.jsonl."""
    algorithm, count = config.algorithm, config.updates_per_rollout
    tokenized = _with_predictions(config, parts, batch.tokenized(), clock)
    tokenized = with_advantages(batch, tokenized, algorithm, config.max_response_tokens)
    loss, value_loss = _as_engine_loss(policy_loss(algorithm)), _as_engine_loss(ValueLoss(algorithm.value_clip))
    updates: list[Update] = []
    trained: list[TokenizedSample] = []
    rates: dict[str, float] = {}
    with clock.phase("train"):
        for number, part in enumerate(batch.parts(count)):
            mine = tokenized[len(trained) : len(trained) + len(part.samples)]
            samples = with_weights(part, mine, algorithm, config.max_response_tokens)
            rates["lr"] = learning_rate(config.optimizer, (step - 1) * count + number)
            policy = parts.actor.train_step(samples, loss, rates["lr"])
            critic = None
            if parts.critic:
                rates["critic_lr"] = learning_rate(config.critic, (step - 1) * count + number)
                critic = parts.critic.train_step(samples, value_loss, rates["critic_lr"])
            updates.append(Update(part, policy, critic))
            trained += samples
    with clock.phase("refit"):
        parts.engine.refit(parts.actor.weights(), version=step)
    tokens = sum(len(sample.token_ids) for sample in tokenized)
    return updates, {
        "step": step,
        **policy_metrics(updates),
        **(critic_metrics(updates, trained) if parts.critic else {}),
        **rates,
        **batch.metrics(),
        "passed_over": parts.prompts.passed_over,
        "tokens": tokens,
        "tokens_per_second": tokens / clock.total,
        "mfu": None,  # needs a device with a known peak
        "seconds": {**clock.seconds, "total": clock.total},
    }


def _with_predictions(
    config: TrainConfig, parts: Parts, samples: list[TokenizedSample], clock: PhaseClock
) -> list[TokenizedSample]:
    """Add what the engines say of the rollout before anything moves: log-probs, and the critic's values."""
    algorithm = config.algorithm
    with clock.phase("log_probs"):
        if algorithm.kl > 0:
            reference = parts.actor.log_probs(samples, reference=True)
            samples = with_per_token(samples, reference_log_probs=reference)
        # Otherwise the policy's own are those of the training step itself.
        if config.updates_per_rollout > 1 or (algorithm.kl > 0 and algorithm.kl_in == "reward"):
            samples = with_per_token(samples, old_log_probs=parts.actor.log_probs(samples))
    if parts.critic:
        with clock.phase("values"):
            samples = with_per_token(samples, values=parts.critic.values(samples))
    return samples


def _with_note(error: UserError, before: str, after: str) -> UserError:
    """The same kind of failure, with where it happened and what is left."""
    noted = UserError(f"{before}{error}{after}")
    noted.exit_code = error.exit_code
    return noted


def learning_rate(settings: OptimizerConfig | CriticConfig, update: int) -> float:
    """Constant after a linear warm-up, counted in optimizer steps from 0."""
    warm = settings.warmup_steps
    return settings.lr * min(1.0, (update + 1) / warm) if warm else settings.lr


def _as_engine_loss(loss: Callable[..., Any]) -> LossFunction:
    def call(predicted_bt: Any, batch: MicroBatch) -> Any:
        device = predicted_bt.device
        return loss(predicted_bt, {name: values.to(device) for name, values in batch.per_token_bt.items()})

    return call


def _state(step: int, parts: Parts, skips: SkippedSteps) -> dict[str, Any]:
    """What a checkpoint holds beside the engines' part."""
    return {"step": step, "prompts": parts.prompts.state_dict(), "skipped": skips.in_a_row}


def _record_evaluation(parts: Parts, step: int) -> None:
    assert parts.evaluate
    with parts.room():
        summary = parts.evaluate(step)
    if parts.records and is_first_rank():
        parts.records.evaluation(summary)
