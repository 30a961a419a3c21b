"""A rank's passes over its share of a global batch, micro-batch by micro-batch; knows no optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.actors.interface import MAXIMUM, LossFunction, MicroBatch, TokenizedSample
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.out_of_memory import naming_the_phase
from recipes.actors.mcore.schedule import run_schedule
from recipes.actors.packing import micro_batches, shares

# (model, micro-batch, the last stage's output [b, t, ...]) -> (x_bt with gradient and 0 outside the mask, named sums).
Head = Callable[[GPTModel, MicroBatch, Tensor], tuple[Tensor, dict[str, Tensor]]]


class Passes:
    """Forward and backward passes over global batches, of which this rank takes its data-parallel share."""

    def __init__(
        self, mesh: Mesh, head: Head, *, pad_id: int, micro_batch_tokens: int, packed: bool = False, multiple: int = 1
    ) -> None:
        """
        Args:
            mesh: this rank's place.
            head: what becomes of the last stage's output.
            pad_id: fills the right of micro-batches; never enters a result.
            micro_batch_tokens: most positions in a micro-batch.
            packed: micro-batches are single rows without padding.
            multiple: rows are padded to a multiple of this.
        """
        self.mesh = mesh
        self.head = head
        self.pad_id = pad_id
        self.micro_batch_tokens = micro_batch_tokens
        self.packed = packed
        self.multiple = multiple

    def per_token(self, model: GPTModel, samples: Sequence[TokenizedSample], phase: str) -> list[Tensor]:
        """The head's float32 [response tokens] of each sample, on every rank, without gradient.

        Args:
            model: this rank's stage, in evaluation mode.
            samples: the global batch.
            phase: what messages call this pass.

        Raises:
            UserError: out of memory.
        """
        mine = self._share(samples)
        batches = self._batches([samples[i] for i in mine])
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

    def gradients(
        self, wrapped: Any, model: GPTModel, samples: Sequence[TokenizedSample], loss: LossFunction, phase: str
    ) -> dict[str, float]:
        """Add the gradient of the global loss to what `wrapped` accumulates.

        Args:
            wrapped: this rank's stage as the schedule runs it.
            model: the same, as the head reads it.
            samples: the global batch.
            loss: gives each micro-batch's part of the global loss.
            phase: what messages call this pass.

        Returns:
            The sums over the global batch that loss function and head name, on every rank; the loss as `loss`.
            Of what begins with `MAXIMUM`, the largest value.

        Raises:
            UserError: out of memory.
        """
        mine = self._share(samples)
        batches = [batch for _, batch in self._batches([samples[i] for i in mine])]
        # megatron-core divides by the number of micro-batches, and gradients are averaged over data-parallel ranks; the
        # loss is normalised by global counts already, so both are undone here, once.
        undo = len(batches) * self.mesh.data
        found = self._run(wrapped, batches, partial(self._loss, model, loss, undo), phase, forward_only=False)
        return self._add_up(found)

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
        self, model: GPTModel, loss: LossFunction, undo: int, batch: MicroBatch, output_bt: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        values_bt, head_sums = self.head(model, batch, output_bt)
        value, sums = loss(values_bt, batch)
        return value * undo, {"loss": value.detach().clone(), **head_sums, **sums}

    def _add_up(self, found: list[dict[str, Tensor]]) -> dict[str, float]:
        """The named sums, and maxima, over micro-batches and data-parallel ranks, on every rank."""
        names = sorted(found[0]) if found else []
        if self.mesh.pipeline > 1:  # other stages do not know what the last one counted
            names = _broadcast_names(names, self.mesh)
        largest = [name for name in names if name.startswith(MAXIMUM)]
        summed = [name for name in names if name not in largest]
        mine = found if self.mesh.is_last_stage and self.mesh.tensor_rank == 0 else []
        total = torch.zeros(len(summed), dtype=torch.float64, device=self.mesh.device)
        for sums in mine:
            total += torch.stack([sums[name].double() for name in summed])
        dist.all_reduce(total)
        result = dict(zip(summed, total.tolist(), strict=True))
        if largest:
            most = torch.full((len(largest),), -math.inf, dtype=torch.float64, device=self.mesh.device)
            for sums in mine:
                most = torch.maximum(most, torch.stack([sums[name].double() for name in largest]))
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
            result |= dict(zip(largest, most.tolist(), strict=True))
        return result


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
