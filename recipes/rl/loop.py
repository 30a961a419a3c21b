"""The training loop: rollout → score → advantages → step → refit → log → checkpoint. Every rank runs it (SPMD)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from conf.actor import OptimizerConfig
from conf.algorithm import CriticConfig
from conf.train import TrainConfig
from crossthink.errors import StoppedEarly, UserError
from recipes.actors.interface import Actor, Critic, LossFunction, MicroBatch, Staged, TokenizedSample
from recipes.rl.batch import RolloutBatch, with_per_token
from recipes.rl.credit import with_advantages, with_weights
from recipes.rl.dynamic_sampling import draw_useful
from recipes.rl.losses import ValueLoss, policy_loss
from recipes.rl.metrics import critic_metrics, policy_metrics
from recipes.rl.profiler import StepTrace
from recipes.rl.prompts import PromptStream
from recipes.rl.records import PhaseClock, Records
from recipes.rl.retention import Best
from recipes.rl.rollouts import Judge, check_invalid, rollout
from recipes.rl.saver import Saver
from recipes.rl.skipped import SkippedSteps, Update
from recipes.rl.spmd import any_rank, is_first_rank
from recipes.rl.stop import StopRequest
from recipes.rl.throughput import Throughput, peak_memory_mb
from recipes.rl.walltime import JOB_END, Walltime, job_end
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
    """Everything the loop drives. `client`, `records` and `progress` exist on rank 0 only, `critic` with PPO only.

    Without `throughput` the metrics have no FLOP/s.
    """

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
    throughput: Throughput | None = None

    @property
    def engines(self) -> list[Actor | Critic]:
        """What is trained."""
        return [self.actor, *([self.critic] if self.critic else [])]

    def stage(self, folder: Path) -> list[Staged]:
        """Copy the engines' part of a checkpoint, for writing it later. Collective."""
        return [engine.stage(folder) for engine in self.engines]

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


def train(config: TrainConfig, parts: Parts, start: int, saved: Mapping[str, Any] | None = None) -> None:
    """Train from after step `start` to `config.steps`.

    Args:
        saved: the trainer's state in the checkpoint that the run goes on from.

    Raises:
        StoppedEarly: SIGINT or SIGTERM came, or the job's end is near; everything is saved.
        UserError: the rewards cannot be had or trusted, or too many losses or gradients in a row were not finite; the
            state after the last whole step is saved first.
    """
    with StopRequest() as stop, StepTrace(Path(config.out), config.profile.steps) as trace:
        _train(config, parts, start, saved or {}, stop, trace)


def _train(
    config: TrainConfig, parts: Parts, start: int, resumed: Mapping[str, Any], stop: StopRequest, trace: StepTrace
) -> None:
    out = Path(config.out)
    skips = SkippedSteps(config.optimizer.max_skipped, resumed.get("skipped", 0))
    best = Best.of(config.checkpoint.best, resumed.get("best"))
    saver = Saver(out, parts, config.checkpoint.keep, config.checkpoint.asynchronous)
    walltime = Walltime(job_end(os.environ), config.checkpoint.margin_s)
    saved = start
    parts.engine.refit(parts.actor.weights(), version=start)
    if start == 0 and parts.evaluate:
        _record_evaluation(parts, 0)
    for step in range(start + 1, config.steps + 1):
        before = _state(step - 1, parts, skips, best)
        # Rank 0's clock decides for all.
        if any_rank(is_first_rank() and walltime.is_near(time.time(), saver.last_save_s)):
            if saved < step - 1:
                saver.save(step - 1, before, wait=True)
            saver.finish()
            raise _out_of_time(config, step, walltime, saver)
        began = time.monotonic()
        clock = PhaseClock()
        trace.begin(step)
        try:
            batch, draws = collect(config, parts, step, clock)
        except UserError as error:
            # Nothing was updated yet, so this is still the state after the last step: it must not be lost.
            if saved < step - 1:
                saver.save(step - 1, before, wait=True)
            saver.finish()
            kept = (
                f"step {step - 1} is saved in {out}; resume=true continues" if step > 1 else "no step was finished yet"
            )
            raise _with_note(error, f"Step {step} of {config.steps}: ", f" ({kept}.)") from error
        saver.poll()
        updates, metrics = update(config, parts, step, batch, clock)
        trace.end(step)
        saver.poll()
        metrics |= draws
        metrics["seconds"] |= saver.seconds()
        skipped = skips.count(updates)
        if parts.records:
            parts.records.step(metrics, batch)
            if skipped:
                parts.records.bad_batch(step, [sample for one in skipped for sample in one.part.samples])
        if parts.progress:
            parts.progress.step(metrics)
        if parts.evaluate and step % config.eval.every == 0:
            summary = _record_evaluation(parts, step)
            best = best.after(step, summary) if best else None
        walltime.step_took(time.monotonic() - began)
        stopping = any_rank(stop.requested)
        last = stopping or skips.reached or step == config.steps
        if last or step % config.checkpoint.every == 0 or (best and best.step == step):
            saver.save(step, _state(step, parts, skips, best), wait=last)
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
            drawn = rollout(
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
        lengths = drawn.lengths
        clock.ran("rollout", "prefill", lengths[:: drawn.group])  # a prompt is read once for its group
        clock.ran("rollout", "decode", lengths)
        return drawn

    def check(drawn: RolloutBatch) -> None:
        check_invalid(drawn, config.reward.max_invalid)

    return draw_useful(draw, config.prompts_per_step, config.algorithm.dynamic_sampling, check)


def update(
    config: TrainConfig, parts: Parts, step: int, batch: RolloutBatch, clock: PhaseClock
) -> tuple[list[Update], dict[str, Any]]:
    """The optimizer steps of one rollout batch, then the refit. Returns them, and the line of metrics.jsonl."""
    algorithm, count = config.algorithm, config.updates_per_rollout
    tokenized = _with_predictions(config, parts, batch, clock)
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
            clock.ran("train", "train", part.lengths)
            critic = None
            if parts.critic:
                rates["critic_lr"] = learning_rate(config.critic, (step - 1) * count + number)
                critic = parts.critic.train_step(samples, value_loss, rates["critic_lr"])
                clock.ran("train", "train_critic", part.lengths)
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
        "tokens_per_second": tokens / clock.total / dist.get_world_size(),
        **(parts.throughput.metrics(clock) if parts.throughput else {}),
        "peak_memory_mb": peak_memory_mb(),
        "seconds": {**clock.seconds, "total": clock.total},
    }


def _with_predictions(
    config: TrainConfig, parts: Parts, batch: RolloutBatch, clock: PhaseClock
) -> list[TokenizedSample]:
    """Add what the engines say of the rollout before anything moves: log-probs, and the critic's values."""
    algorithm, samples = config.algorithm, batch.tokenized()
    with clock.phase("log_probs"):
        if algorithm.kl > 0:
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


def _out_of_time(config: TrainConfig, step: int, walltime: Walltime, saver: Saver) -> StoppedEarly:
    assert walltime.end is not None or not is_first_rank()
    left = (walltime.end or 0.0) - time.time()
    kept = f"saved in {config.out}. Continue: resume=true." if step > 1 else "no step was finished yet."
    return StoppedEarly(
        f"Stopped before step {step} of {config.steps}: {JOB_END} is in {left:.0f} s, and a step with its save may "
        f"take {walltime.margin_s(saver.last_save_s):.0f} s; {kept}"
    )


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


def _state(step: int, parts: Parts, skips: SkippedSteps, best: Best | None) -> dict[str, Any]:
    """What a checkpoint holds beside the engines' part."""
    return {
        "step": step,
        "prompts": parts.prompts.state_dict(),
        "skipped": skips.in_a_row,
        "best": best.to_json() if best else None,
    }


def _record_evaluation(parts: Parts, step: int) -> dict[str, Any]:
    assert parts.evaluate
    with parts.room():
        summary = parts.evaluate(step)
    if parts.records and is_first_rank():
        parts.records.evaluation(summary)
    return summary
