"""The training loop: rollout → score → advantages → step → refit → log → checkpoint. Every rank runs it (SPMD)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from conf.train import TrainConfig
from crossthink.errors import LocalError, StoppedEarly, UserError
from recipes.rl.batch import RolloutBatch
from recipes.rl.checkpoints import READY
from recipes.rl.feed import Feed, make_feed
from recipes.rl.parts import Parts
from recipes.rl.profiler import StepTrace
from recipes.rl.records import PhaseClock
from recipes.rl.retention import Best
from recipes.rl.saver import Saver
from recipes.rl.skipped import SkippedSteps, Update
from recipes.rl.step import room_for_rollouts, speed, update
from recipes.rl.stop import StopRequest
from recipes.rl.walltime import JOB_END, Walltime, job_end
from recipes.rollout.interface import RemoteEngine
from recipes.run_files import BAD_BATCHES, rollout_file
from recipes.spmd import any_failure, any_rank, is_first_rank


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
    saver = Saver(out, parts, config.checkpoint.keep, config.checkpoint.asynchronous, saved=start)
    walltime = Walltime(job_end(os.environ), config.checkpoint.margin_s)
    parts.engine.refit(parts.actor.weights, version=start)
    feed = make_feed(config, parts, start, resumed.get(READY))
    if start == 0 and parts.evaluate:
        _record_evaluation(config, parts, 0)
    for step in range(start + 1, config.steps + 1):
        # Rank 0's clock decides for all.
        if any_rank(is_first_rank() and walltime.is_near(time.time(), saver.last_save_s)):
            saver.settle(step - 1, _state(step - 1, feed, skips, best))
            raise _out_of_time(config, step, walltime, saver)
        began = time.monotonic()
        clock = PhaseClock()
        trace.begin(step)
        try:
            batch, draws = feed.collect(step, clock)
        except UserError as error:
            if isinstance(error, LocalError) and dist.get_world_size() > 1:
                raise  # the others are amid a pass, and a save needs them
            # Nothing was updated yet, so the state is still that after the last step: it must not be lost.
            saver.settle(step - 1, _state(step - 1, feed, skips, best))
            raise _before_step(error, config, step) from error
        saver.poll()
        updates, metrics = update(config, parts, step, batch, clock)
        failure = None
        try:
            feed.trained(step, clock)
        except UserError as error:  # the step is trained, and is recorded and saved before the run ends
            failure = error
        trace.end(step)
        saver.poll()
        metrics |= speed(parts, batch, clock) | draws
        if is_first_rank() and isinstance(parts.engine, RemoteEngine):
            metrics |= parts.engine.metrics()
        metrics["seconds"] |= saver.seconds()
        skipped = skips.count(updates)
        _record(parts, step, metrics, batch, skipped)
        failure = failure or _too_far_apart(config, step, metrics)
        if parts.evaluate and step % config.eval.every == 0 and failure is None:
            try:
                feed.freshen(step)
                summary = _record_evaluation(config, parts, step)
                best = best.after(step, summary) if best else None
            except UserError as error:
                failure = error
        failure = any_failure(failure)  # rank 0 alone writes what an evaluation found, and all save or none
        walltime.step_took(time.monotonic() - began)
        stopping = any_rank(stop.requested)
        last = stopping or skips.reached or failure is not None or step == config.steps
        if last or step % config.checkpoint.every == 0 or (best and best.step == step):
            saver.save(step, _state(step, feed, skips, best), wait=last)
        if skips.reached:
            raise skips.error(step, skipped[-1], rollout_file(out, step, BAD_BATCHES), out)
        if failure is not None:
            raise _after_step(failure, config, step)
        if stopping and step < config.steps:
            raise StoppedEarly(f"Stopped after step {step} of {config.steps}, saved in {out}. Continue: resume=true.")


def _out_of_time(config: TrainConfig, step: int, walltime: Walltime, saver: Saver) -> StoppedEarly:
    assert walltime.end is not None or not is_first_rank()
    left = (walltime.end or 0.0) - time.time()
    kept = f"saved in {config.out}. Continue: resume=true." if step > 1 else "no step was finished yet."
    return StoppedEarly(
        f"Stopped before step {step} of {config.steps}: {JOB_END} is in {left:.0f} s, and a step with its save may "
        f"take {walltime.margin_s(saver.last_save_s):.0f} s; {kept}"
    )


def _before_step(error: UserError, config: TrainConfig, step: int) -> UserError:
    saved = f"step {step - 1} is saved in {config.out}; resume=true continues"
    kept = saved if step > 1 else "no step was finished yet"
    return _with_note(error, f"Step {step} of {config.steps}: ", f" ({kept}.)")


def _after_step(error: UserError, config: TrainConfig, step: int) -> UserError:
    kept = f" (Step {step} is saved in {config.out}; resume=true continues.)"
    return _with_note(error, f"After step {step} of {config.steps}: ", kept)


def _with_note(error: UserError, before: str, after: str) -> UserError:
    """The same kind of failure, with where it happened and what is left."""
    noted = UserError(f"{before}{error}{after}")
    noted.exit_code = error.exit_code
    return noted


def _too_far_apart(config: TrainConfig, step: int, metrics: Mapping[str, Any]) -> UserError | None:
    """Why the run stops where rollout engine and actor disagree by more than the config allows."""
    limit = config.rollout.max_mismatch
    if limit is None or metrics["mismatch"] is None or metrics["mismatch"] <= limit:
        return None
    return UserError(
        f"log-probs of rollout and actor are {metrics['mismatch']:.4g} apart in the mean (the largest by "
        f"{metrics['mismatch_max']:.4g}), above rollout.max_mismatch={limit}. The engines compute different models, or "
        "the rollouts are too old: compare their precision, set algorithm.importance_cap, or raise the limit."
    )


def _state(step: int, feed: Feed, skips: SkippedSteps, best: Best | None) -> dict[str, Any]:
    """What a checkpoint holds beside the engines' part."""
    return {
        "step": step,
        **feed.state(),
        "skipped": skips.in_a_row,
        "best": best.to_json() if best else None,
    }


def _record(parts: Parts, step: int, metrics: dict[str, Any], batch: RolloutBatch, skipped: Sequence[Update]) -> None:
    """Write what the step left, with the samples of skipped optimizer steps, and show it."""
    if parts.records:
        parts.records.step(metrics, batch)
        if skipped:
            parts.records.bad_batch(step, [sample for one in skipped for sample in one.part.samples])
    if parts.progress:
        parts.progress.step(metrics)


def _record_evaluation(config: TrainConfig, parts: Parts, step: int) -> dict[str, Any]:
    assert parts.evaluate
    with room_for_rollouts(config, parts):
        summary = parts.evaluate(step)
    if parts.records and is_first_rank():
        parts.records.evaluation(summary)
    return summary
