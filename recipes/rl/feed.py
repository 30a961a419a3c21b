"""Where the batches of a run come from: generated when they are needed, or one step ahead while the last one trains.

Let v_t be the weights after step t. On policy, step t trains on a batch that v_{t-1} drew. One step off
(`rollout.lag=1`) the batch of step t + 1 is begun, with v_{t-1}, before step t trains, so that generation and training
overlap; the first batch is on policy. Weights go over when the batch under way is done: a batch has one weight version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Protocol

from conf.train import TrainConfig
from recipes.rl.batch import RolloutBatch
from recipes.rl.checkpoints import READY
from recipes.rl.parts import Parts
from recipes.rl.pending import MadeRollout, PendingRollout
from recipes.rl.records import PhaseClock
from recipes.rl.rollouts import InvalidVerdictsError, check_invalid
from recipes.rl.step import begin, collect, refit
from recipes.rollout.interface import RemoteEngine


class Feed(Protocol):
    """Gives every step its batch, and keeps the rollout engine's weights. All methods are collective."""

    def collect(self, step: int, clock: PhaseClock) -> tuple[RolloutBatch, dict[str, Any]]:
        """The batch of `step` and the metrics of drawing it.

        Raises:
            UserError: rollouts or verdicts cannot be had; `state` is still that of the step before.
        """
        ...

    def trained(self, step: int, clock: PhaseClock) -> None:
        """`step` has been trained; what its batch was made of is not needed any more.

        Raises:
            UserError: the new weights could not be brought over; the step is trained all the same.
        """
        ...

    def freshen(self, step: int) -> None:
        """Before an evaluation: have the engine generate with the weights after `step`.

        Raises:
            UserError: it could not take them.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint after the last trained step holds: `prompts`, and `READY` where rollouts are made already.

        Waits for a rollout under way.
        """
        ...


class OnPolicy:
    """Implements `Feed`: every batch is drawn by the weights that are trained on it."""

    def __init__(self, config: TrainConfig, parts: Parts) -> None:
        self.config = config
        self.parts = parts
        self._prompts = parts.prompts.state_dict()

    def collect(self, step: int, clock: PhaseClock) -> tuple[RolloutBatch, dict[str, Any]]:
        """See `Feed.collect`."""
        found = collect(self.config, self.parts, step, clock)
        if isinstance(self.parts.engine, RemoteEngine):
            self.parts.engine.rest()
        return found

    def trained(self, step: int, clock: PhaseClock) -> None:
        """See `Feed.trained`."""
        self._prompts = self.parts.prompts.state_dict()
        refit(self.parts, step, clock)

    def freshen(self, step: int) -> None:
        """See `Feed.freshen`; `trained` has done it."""

    def state(self) -> dict[str, Any]:
        """See `Feed.state`."""
        return {"prompts": self._prompts}


@dataclass(frozen=True)
class _Ahead:
    """A rollout, and where the prompts stood before they were drawn for it."""

    prompts: dict[str, Any]
    rollout: PendingRollout | MadeRollout
    spoiled: bool = False  # its verdicts may not be trained on, so it is to be made again


class OneStepOff:
    """Implements `Feed`: the next batch is generated while this one trains."""

    def __init__(self, config: TrainConfig, parts: Parts, start: int, ready: str | None) -> None:
        """
        Args:
            start: step that the run goes on from, whose weights the engine has.
            ready: rollouts of the next step that the checkpoint held.
        """
        self.config = config
        self.parts = parts
        self._version = start
        self._next: _Ahead | None = None
        self._current: _Ahead | None = None
        if ready is not None:
            before = parts.prompts.state_dict()
            drawn = parts.prompts.draw(config.prompts_per_step)
            self._current = _Ahead(before, MadeRollout(parts.tokenizer, drawn, json.loads(ready)))

    def collect(self, step: int, clock: PhaseClock) -> tuple[RolloutBatch, dict[str, Any]]:
        """See `Feed.collect`. Begins with the batch of the next step."""
        self._current = self._current or self._begin(step)
        batch = self._current.rollout.finish(clock.phase)
        try:
            check_invalid(batch, self.config.reward.max_invalid)
        except InvalidVerdictsError:
            self._current = replace(self._current, spoiled=True)
            raise
        if step < self.config.steps:
            self._refit(step - 1, clock)
            self._next = self._begin(step + 1)
        return batch, {}

    def trained(self, step: int, clock: PhaseClock) -> None:
        """See `Feed.trained`. The weights go over when the batch under way is done."""
        self._current, self._next = self._next, None

    def freshen(self, step: int) -> None:
        """See `Feed.freshen`."""
        if self._current is not None:
            self._current.rollout.wait()
        self._refit(step, PhaseClock())

    def state(self) -> dict[str, Any]:
        """See `Feed.state`."""
        if self._current is None:
            return {"prompts": self.parts.prompts.state_dict()}
        self._current.rollout.wait()
        made = None if self._current.spoiled else self._current.rollout.ready()
        return {"prompts": self._current.prompts, READY: None if made is None else json.dumps(made)}

    def _begin(self, step: int) -> _Ahead:
        return _Ahead(self.parts.prompts.state_dict(), begin(self.config, self.parts, step))

    def _refit(self, step: int, clock: PhaseClock) -> None:
        if self._version != step:
            refit(self.parts, step, clock)
            self._version = step


def make_feed(config: TrainConfig, parts: Parts, start: int, ready: str | None) -> Feed:
    """The feed that `rollout.lag` asks for. On policy, rollouts that a checkpoint held are made again instead."""
    return OneStepOff(config, parts, start, ready) if config.rollout.lag else OnPolicy(config, parts)
