"""What the loop drives: engines, prompts, the judge, and what shows and writes where a run is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from recipes.actors.interface import Actor, Critic, Staged
from recipes.rl.prompts import PromptStream
from recipes.rl.records import Records
from recipes.rl.scoring import Judge
from recipes.rl.throughput import Throughput
from recipes.rollout.interface import RolloutEngine, SamplingParams


class Progress(Protocol):
    """Shows a person where the run is."""

    def step(self, metrics: dict[str, Any]) -> None:
        """Show a finished step by its line of metrics.jsonl."""


class Evaluator(Protocol):
    """Greedy evaluation on held-out questions, with the weights the engine has now."""

    def __call__(self, step: int) -> dict[str, Any]:
        """The summary of the evaluation after `step`, as metrics.jsonl has it."""


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
