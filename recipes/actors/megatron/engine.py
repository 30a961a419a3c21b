"""What the policy and the critic share: a model under training, its passes over a global batch, its optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from megatron.core.models.gpt import GPTModel
from torch import Tensor

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.interface import LossFunction, Staged, StepResult, TokenizedSample
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.passes import Head, Passes
from recipes.actors.mcore.precision import FP8_MULTIPLE
from recipes.actors.megatron import checkpoint
from recipes.actors.megatron.model import packs_sequences
from recipes.actors.megatron.offload import TrainingStateOffload
from recipes.actors.megatron.optimizer import (
    Sharing,
    gather_weights,
    needs_gathering,
    step_if_finite,
    wrap_for_training,
)


class Engine:
    """One rank's part of a model in training, and the rank's share of every batch."""

    def __init__(
        self,
        model: GPTModel,
        mesh: Mesh,
        optimizer: OptimizerConfig,
        settings: ActorConfig,
        *,
        head: Head,
        pad_id: int,
        micro_batch_tokens: int,
    ) -> None:
        """
        Args:
            model: with its weights loaded.
            mesh: this rank's place.
            optimizer: Adam's settings.
            settings: `actor.*`.
            head: what becomes of the last stage's output.
            pad_id: fills the right of micro-batches; never enters a result.
            micro_batch_tokens: most positions in a micro-batch.
        """
        self.model = model
        self.mesh = mesh
        self.passes = Passes(
            mesh,
            head,
            pad_id=pad_id,
            micro_batch_tokens=micro_batch_tokens,
            packed=packs_sequences(mesh, settings),
            multiple=(mesh.tensor if settings.sequence_parallel else 1)
            * (FP8_MULTIPLE if settings.fp8 != "off" else 1),
        )
        self.ddp, self.adam = wrap_for_training(model, optimizer, Sharing.of(settings, mesh))
        self._training_state = TrainingStateOffload(self.ddp, self.adam)
        self._offloads = settings.offload
        self._stale = False  # whether this rank's weights lack what the other ranks updated

    def per_token(self, samples: Sequence[TokenizedSample], phase: str, model: GPTModel | None = None) -> list[Tensor]:
        """The head's float32 [response tokens] of each sample, on every rank, without gradient.

        Args:
            samples: the global batch.
            phase: what messages call this pass.
            model: a model of the same shape in place of the one in training.

        Raises:
            UserError: out of memory.
        """
        self.gather()
        model = model or self.model
        model.eval()
        return self.passes.per_token(model, samples, phase)

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float, phase: str) -> StepResult:
        """One optimizer step on the global batch; none where loss or gradient is not finite.

        Raises:
            UserError: out of memory.
        """
        self.onload()
        self.ddp.train()
        self.ddp.zero_grad_buffer()
        self.adam.zero_grad()
        sums = self.passes.gradients(self.ddp, self.model, samples, loss, phase)
        grad_norm = step_if_finite(self.adam, lr, finite=math.isfinite(sums["loss"]))
        self._stale = needs_gathering(self.ddp)
        return StepResult(grad_norm, sums)

    def gather(self) -> None:
        """Complete this rank's weights where an overlapped gather has not yet. Collective; before weights are read."""
        if self._stale:
            gather_weights(self.ddp)
            self._stale = False

    def offload(self) -> None:
        """Free the device of what only training needs, where `actor.offload` says so."""
        if self._offloads:
            self._training_state.leave()

    def onload(self) -> None:
        """Take back what `offload` put away."""
        self._training_state.come_back()

    def stage(self, folder: Path) -> Staged:
        """See `Actor.stage`."""
        self.onload()
        self.gather()
        return checkpoint.stage(folder, self.model, self.adam, self.mesh)

    def load(self, folder: Path) -> None:
        """See `Actor.load`."""
        self.onload()
        checkpoint.load(folder, self.model, self.adam, self.mesh)
        self._stale = False
