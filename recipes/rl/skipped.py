"""Optimizer steps whose loss or gradient is not finite: left out and counted, and too many in a row end the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossthink.errors import UserError
from recipes.actors.interface import StepResult
from recipes.rl.batch import RolloutBatch


class NotFiniteError(UserError):
    """Losses or gradients of `optimizer.max_skipped` optimizer steps in a row were not finite."""


@dataclass(frozen=True)
class Update:
    """One optimizer step of the policy and, with PPO, of the critic.

    Attributes:
        part: the samples that it was made from.
        policy: what the policy's engine says of it.
        critic: what the critic's engine says; None without a critic.
    """

    part: RolloutBatch
    policy: StepResult
    critic: StepResult | None

    @property
    def not_finite(self) -> list[str]:
        """What was not finite, in words; empty where the step was taken."""
        return [
            f"the {name}'s {what} ({value})"
            for name, result in (("policy", self.policy), ("critic", self.critic))
            if result is not None and not result.is_finite
            for what, value in (("loss", result.sums["loss"]), ("gradient norm", result.grad_norm))
            if not abs(value) < float("inf")
        ]


class SkippedSteps:
    """Counts skipped optimizer steps in a row. All ranks count alike: an engine's results are equal on all of them."""

    def __init__(self, limit: int, in_a_row: int = 0) -> None:
        """Start with `in_a_row` skipped steps, which the checkpoint of a resumed run knows."""
        self.limit = limit
        self.in_a_row = in_a_row
        self.reached = False

    def count(self, updates: Sequence[Update]) -> list[Update]:
        """Count a training step's optimizer steps. Returns those that were skipped."""
        skipped = [update for update in updates if update.not_finite]
        for update in updates:
            self.in_a_row = self.in_a_row + 1 if update.not_finite else 0
            self.reached = self.reached or self.in_a_row >= self.limit
        if self.reached:
            self.in_a_row = 0  # whoever resumes such a run has the whole limit again
        return skipped

    def error(self, step: int, last: Update, dump: Path, out: Path) -> NotFiniteError:
        """Why the run stops after training step `step`.

        Args:
            step: the training step.
            last: its last skipped optimizer step.
            dump: where its samples are.
            out: the run folder.
        """
        return NotFiniteError(
            f"Step {step}: {' and '.join(last.not_finite)} not finite. {self.limit} optimizer steps in a row were "
            f"skipped (optimizer.max_skipped={self.limit}); the samples of the last are in {dump}. The weights of the "
            f"last good step are saved in {out}: resume=true goes on from them with the next prompts."
        )
