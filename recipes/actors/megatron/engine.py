"""What the policy and the critic share: a model under training, its passes over a global batch, its optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.interface import (
    LossFunction,
    MicroBatch,
    Staged,
    StepResult,
    TokenizedSample,
)
from recipes.actors.megatron import checkpoint
from recipes.actors.megatron.mesh import Mesh
from recipes.actors.megatron.model import packs_sequences
from recipes.actors.megatron.offload import TrainingStateOffload
from recipes.actors.megatron.optimizer import (
    Sharing,
    gather_weights,
    needs_gathering,
    step_if_finite,
    wrap_for_training,
)
from recipes.actors.megatron.out_of_memory import naming_the_phase
from recipes.actors.megatron.precision import FP8_MULTIPLE
from recipes.actors.megatron.schedule import run_schedule
from recipes.actors.packing import micro_batches, shares

# (model, micro-batch, the last stage's output [b, t, ...]) -> (x_bt with gradient and 0 outside the mask, named sums).
Head = Callable[[GPTModel, MicroBatch, Tensor], tuple[Tensor, dict[str, Tensor]]]


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
        self.head = head
        self.pad_id = pad_id
        self.micro_batch_tokens = micro_batch_tokens
        self.packed = packs_sequences(mesh, settings)
        self.multiple = (mesh.tensor if settings.sequence_parallel else 1) * (
            FP8_MULTIPLE if settings.fp8 != "off" else 1
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
        mine = self._share(samples)
        batches = self._batches([samples[i] for i in mine])
        model.eval()
        with torch.no_grad():
            found = self._run(
                model, [batch for _, batch in batches], partial(self._collect, model), phase, forward_only=True
            )
        flat = torch.zeros(sum(s.response_length for s in samples), device=self.mesh.device)
        starts = torch.tensor([0, *(s.response_length for s in samples)]).cumsum(0).tolist()
        if self.mesh.is_last_stage and self.mesh.tensor_rank == 0:
            for (indices, batch), values_bt in zip(batches, found, strict=True):
                for index, place in zip(indices, batch.places, strict=True):
                    sample = mine[index]
                    flat[starts[sample] : starts[sample + 1]] = values_bt[place]
        # Each value stands on exactly one rank, so the sum is that value.
        dist.all_reduce(flat)
        return list(flat.cpu().split([s.response_length for s in samples]))

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float, phase: str) -> StepResult:
        """One optimizer step on the global batch; none where loss or gradient is not finite.

        Raises:
            UserError: out of memory.
        """
        self.onload()
        mine = [samples[i] for i in self._share(samples)]
        batches = [batch for _, batch in self._batches(mine)]
        self.ddp.train()
        self.ddp.zero_grad_buffer()
        self.adam.zero_grad()
        # megatron-core divides by the number of micro-batches and averages over data-parallel ranks; the loss is
        # normalised by global counts already, so both are undone here, once.
        undo = len(batches) * self.mesh.data
        found = self._run(self.ddp, batches, partial(self._loss, loss, undo), phase, forward_only=False)
        sums = self._add_up(found)
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

    def _run(
        self, model: torch.nn.Module, batches: list[MicroBatch], output: Callable, phase: str, *, forward_only: bool
    ) -> list:
        with naming_the_phase(phase, batches):
            return run_schedule(
                model, batches, output, self.mesh.device, forward_only=forward_only, multiple=self.multiple
            )

    def _share(self, samples: Sequence[TokenizedSample]) -> list[int]:
        """Indices of this data-parallel rank's samples."""
        return shares([len(sample.token_ids) for sample in samples], self.mesh.data)[self.mesh.data_rank]

    def _batches(self, samples: Sequence[TokenizedSample]) -> list[tuple[list[int], MicroBatch]]:
        return micro_batches(samples, self.micro_batch_tokens, self.pad_id, self.packed)

    def _collect(self, model: GPTModel, batch: MicroBatch, output_bt: Tensor, non_loss_data: bool = True) -> Tensor:
        return self.head(model, batch, output_bt)[0]

    def _loss(
        self, loss: LossFunction, undo: int, batch: MicroBatch, output_bt: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        values_bt, head_sums = self.head(self.model, batch, output_bt)
        value, sums = loss(values_bt, batch)
        return value * undo, {"loss": value.detach().clone(), **head_sums, **sums}

    def _add_up(self, found: list[dict[str, Tensor]]) -> dict[str, float]:
        """The named sums over micro-batches and data-parallel ranks, on every rank."""
        names = sorted(found[0]) if found else []
        if self.mesh.pipeline > 1:  # other stages do not know what the last one counted
            names = _broadcast_names(names, self.mesh)
        total = torch.zeros(len(names), dtype=torch.float64, device=self.mesh.device)
        if self.mesh.is_last_stage and self.mesh.tensor_rank == 0:
            for sums in found:
                total += torch.stack([sums[name].double() for name in names])
        dist.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))


def _broadcast_names(names: list[str], mesh: Mesh) -> list[str]:
    """The last stage's list of names, on every stage of its pipeline."""
    text = "\n".join(names).encode()
    source = mesh.global_rank_of_stage(mesh.pipeline - 1)
    size = torch.tensor([len(text)], device=mesh.device)
    dist.broadcast(size, source, group=mesh.pipeline_group)
    data = torch.zeros(int(size), dtype=torch.uint8, device=mesh.device)
    if mesh.is_last_stage:
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, source, group=mesh.pipeline_group)
    return bytes(data.cpu().tolist()).decode().split("\n")
