"""Weights out of the ranks of a model: streamed whole to every rank, or written to a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from recipes.actors.mcore.layout import Parameter, WeightLayout, local_parameters
from recipes.models.weights import SafetensorsWriter, TensorPlan, file_name, plan_files, write_companions, write_index


@torch.no_grad()
def hf_weights(model: GPTModel, layout: WeightLayout) -> Iterator[tuple[str, Tensor]]:
    """Stream whole Hugging Face tensors to every rank: gathered over TP, broadcast over PP, one tensor at a time."""
    mesh = layout.mesh
    mine = local_parameters(model)
    dtype = next(iter(mine.values())).dtype
    for stage in range(mesh.pipeline):
        for parameter in layout.stage(stage):
            local = mine[parameter.name].detach() if stage == mesh.stage else None
            views = None if local is None else layout.views(parameter, local, mesh.tensor_rank)
            for number, (name, shape) in enumerate(zip(parameter.hf_names, parameter.hf_shapes, strict=True)):
                if views is not None and mesh.tensor == mesh.pipeline == 1:
                    yield name, views[number].reshape(shape)
                    continue
                whole = torch.empty(shape, dtype=dtype, device=mesh.device)
                if views is not None:
                    _gather(views[number], whole, parameter, number, layout)
                if mesh.pipeline > 1:
                    dist.broadcast(whole, mesh.global_rank_of_stage(stage), group=mesh.pipeline_group)
                yield name, whole


def _gather(piece: Tensor, whole: Tensor, parameter: Parameter, number: int, layout: WeightLayout) -> None:
    """Put every tensor-parallel rank's piece into its place in `whole`."""
    mesh = layout.mesh
    places = [whole[layout.slices(parameter, rank)[number]] for rank in range(mesh.tensor)]
    if parameter.split is None or mesh.tensor == 1:
        whole.copy_(piece.reshape(whole.shape))
        return
    # Ranks that hold the end of a padded vocabulary have fewer rows: equal sizes travel, the padding is cut off.
    sent = torch.zeros_like(places[0], memory_format=torch.contiguous_format)
    sent[: places[mesh.tensor_rank].shape[0]] = piece.reshape(places[mesh.tensor_rank].shape)
    parts = [torch.empty_like(sent) for _ in places]
    dist.all_gather(parts, sent, group=mesh.tensor_group)
    for place, part in zip(places, parts, strict=True):
        place.copy_(part[: place.shape[0]])


@dataclass(frozen=True)
class ExportOptions:
    """What a written folder looks like.

    Attributes:
        dtype: the type of every tensor; None keeps each as it is.
        max_file_bytes: size of a file at most, unless a single tensor is larger.
    """

    dtype: torch.dtype | None = None
    max_file_bytes: float = 5e9


@torch.no_grad()
def write_hf_weights(
    folder: Path,
    layout: WeightLayout,
    local: Callable[[Parameter], Tensor],
    dtype_of: Callable[[Parameter], torch.dtype],
    options: ExportOptions,
    like: Path,
) -> None:
    """Write a Hugging Face folder, tensor by tensor. Collective; data-parallel copies beyond the first stand by.

    The first tensor-parallel rank of each pipeline stage writes that stage's files. It holds one tensor at a time:
    slices of rows are written as they come from the other ranks, slices of columns are put together first.

    Args:
        folder: an existing empty folder that every rank sees.
        layout: where the parameters lie.
        local: this rank's part of a parameter of its stage; asked for once each, in the layout's order.
        dtype_of: the type of any stage's parameter; alike on every rank.
        options: type and sizes of files.
        like: the folder whose config and tokenizer are copied.
    """
    mesh = layout.mesh
    files: list[list[TensorPlan]] = []
    mine: list[tuple[int, list[TensorPlan]]] = []
    for stage in range(mesh.pipeline):
        plans = [
            TensorPlan(name, shape, options.dtype or dtype_of(parameter))
            for parameter in layout.stage(stage)
            for name, shape in zip(parameter.hf_names, parameter.hf_shapes, strict=True)
        ]
        planned = plan_files(plans, options.max_file_bytes)
        if stage == mesh.stage:
            mine = list(enumerate(planned, start=len(files) + 1))
        files += planned
    if mesh.data_rank == 0:
        pieces = _pieces(layout, local, lambda parameter: options.dtype or dtype_of(parameter))
        for number, tensors in mine:
            if mesh.tensor_rank:
                for _ in tensors:
                    parameter, _, piece = next(pieces)
                    _send(layout, parameter, piece)
                continue
            with SafetensorsWriter(folder / file_name(number, len(files)), tensors) as writer:
                for _ in tensors:
                    _write(layout, writer, *next(pieces))
    if mesh.rank == 0:
        write_index(folder, files)
        write_companions(folder, like, options.dtype)
    dist.barrier()


def _pieces(
    layout: WeightLayout, local: Callable[[Parameter], Tensor], dtype_of: Callable[[Parameter], torch.dtype]
) -> Iterator[tuple[Parameter, int, Tensor]]:
    """This rank's piece of each Hugging Face tensor of its stage: (parameter, which of its tensors, the piece)."""
    for parameter in layout.stage(layout.mesh.stage):
        rank = layout.mesh.tensor_rank
        views = layout.views(parameter, local(parameter), rank)
        parts = layout.slices(parameter, rank)
        for number, (view, part, shape) in enumerate(zip(views, parts, parameter.hf_shapes, strict=True)):
            yield parameter, number, view.detach().reshape(_slice_shape(part, shape)).to(dtype_of(parameter))


def _slice_shape(part: tuple[slice, ...], shape: tuple[int, ...]) -> list[int]:
    whole = (*part, *(slice(None) for _ in shape[len(part) :]))
    return [len(range(*cut.indices(size))) for cut, size in zip(whole, shape, strict=True)]


def _send(layout: WeightLayout, parameter: Parameter, piece: Tensor) -> None:
    """Give this rank's piece to the writing rank, which has a copy of what is not split."""
    if parameter.split is not None and piece.numel():
        group = layout.mesh.tensor_group
        dist.send(piece.contiguous(), dist.get_global_rank(group, 0), group=group)


def _write(layout: WeightLayout, writer: SafetensorsWriter, parameter: Parameter, number: int, piece: Tensor) -> None:
    """Write one Hugging Face tensor: this rank's piece and those of its tensor-parallel group."""
    mesh, shape = layout.mesh, parameter.hf_shapes[number]
    others = range(1, mesh.tensor) if parameter.split is not None else range(0)
    if parameter.split != "columns" or mesh.tensor == 1:
        writer.write(piece)
        for rank in others:
            writer.write(_receive(layout, parameter, number, rank, piece))
        return
    whole = torch.empty(shape, dtype=piece.dtype, device=piece.device)
    whole[layout.slices(parameter, 0)[number]] = piece
    for rank in others:
        whole[layout.slices(parameter, rank)[number]] = _receive(layout, parameter, number, rank, piece)
    writer.write(whole)


def _receive(layout: WeightLayout, parameter: Parameter, number: int, rank: int, like: Tensor) -> Tensor:
    shape = _slice_shape(layout.slices(parameter, rank)[number], parameter.hf_shapes[number])
    part = torch.empty(shape, dtype=like.dtype, device=like.device)
    if part.numel():
        group = layout.mesh.tensor_group
        dist.recv(part, dist.get_global_rank(group, rank), group=group)
    return part
