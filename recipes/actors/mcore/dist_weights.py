"""A rank's part of each parameter in a torch_dist checkpoint of megatron-core: read one by one, or all saved.

The names and offsets are those of `GPTModel.sharded_state_dict`, so that a checkpoint of a run, whatever layout wrote
it, is read without building a model, and what is saved here loads into one. NeMo's checkpoints put a prefix before the
names, and are read alike.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.strategies import filesystem_async
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, LoadPlan, ReadItem
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from crossthink.errors import UserError
from recipes.actors.mcore.layout import EMBEDDING, FUSED_NORMS, HEAD, Parameter, WeightLayout
from recipes.actors.mcore.staged import StagedState

STATE = "state"
"""The folder of the checkpoint within a run's or a converted folder."""
NEMO_PREFIX = "model."
_KEYS = {own: fused for fused, own in FUSED_NORMS.items()}


class DistSource:
    """Parameters out of a torch_dist checkpoint, whatever layout wrote it.

    megatron-core's own loading wants all layers of a stacked parameter at once. torch's reader below it takes any box
    of it, without a collective, so a rank reads one parameter after another at its own pace.
    """

    def __init__(self, layout: WeightLayout, state: Path) -> None:
        """Read the checkpoint's metadata, which is a pickle: verify the folder first.

        Raises:
            UserError: it is no such checkpoint, or one of another model; names the parameter and both shapes.
        """
        self.layout = layout
        self.state = state
        self._reader = FileSystemReader(state)
        try:
            metadata = self._reader.read_metadata()
        except FileNotFoundError as error:
            raise UserError(f"{state} is no checkpoint of megatron-core: {error}") from error
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)
        self._saved = metadata.state_dict_metadata
        self._prefix = NEMO_PREFIX if NEMO_PREFIX + EMBEDDING in self._saved else ""
        for parameter in layout.everything():
            self._check(parameter)

    def dtype(self, parameter: Parameter) -> torch.dtype:
        """The type in which the checkpoint holds the parameter."""
        return self._saved[self._prefix + checkpoint_key(parameter, self.layout)[0]].properties.dtype

    @torch.no_grad()
    def fill(self, parameter: Parameter, local: Tensor) -> None:
        """Copy this rank's part of the parameter into `local`; rows that pad the vocabulary become 0."""
        if parameter.name in (EMBEDDING, HEAD):
            rows = self.layout.slices(parameter, self.layout.mesh.tensor_rank)[0][0]
            known = rows.stop - rows.start
            local[known:].zero_()
        else:
            known = local.shape[0]
        for shard in sharded(parameter, local, self.layout):
            target = shard.data[:known].view(*[1] * shard.prepend_axis_num, *shard.data[:known].shape)
            if target.numel():
                self._read(self._prefix + shard.key, shard.global_offset, target)

    def read(self, parameter: Parameter, dtype: torch.dtype | None = None) -> Tensor:
        """This rank's part of the parameter as a new tensor, of its own type or of `dtype`. Raises as `fill` does."""
        local = torch.empty(self.layout.local_shape(parameter), dtype=dtype or self.dtype(parameter))
        self.fill(parameter, local)
        return local

    def _read(self, key: str, offset: tuple[int, ...], target: Tensor) -> None:
        box = ChunkStorageMetadata(offsets=torch.Size(offset), sizes=target.shape)
        items = create_read_items_for_chunk_list(key, self._saved[key], [box])
        found = sum(item.lengths.numel() for item in items)
        if found != target.numel():
            raise UserError(
                f"{self.state} holds {found} of the {target.numel()} values of {key} at {offset}: it is incomplete."
            )
        self._reader.read_data(LoadPlan(items), _Into(target)).wait()

    def _check(self, parameter: Parameter) -> None:
        name, layer = checkpoint_key(parameter, self.layout)
        key = self._prefix + name
        wanted = parameter.shape if layer is None else (self.layout.shape.layers, *parameter.shape)
        saved = self._saved.get(key)
        found = None if saved is None else tuple(saved.size)
        if found is not None and parameter.name in (EMBEDDING, HEAD) and found[0] >= self.layout.shape.vocabulary:
            found = (wanted[0], *found[1:])  # the padding of the vocabulary depends on who wrote it
        if found != wanted:
            has = "nothing" if found is None else f"a tensor of shape {found}"
            raise UserError(
                f"{self.state} holds {has} under {key}, where config.json asks for {wanted}. It is a checkpoint of "
                "another model."
            )


class _Into(DefaultLoadPlanner):
    """Hands torch's reader the places of one tensor."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        return narrow_tensor_by_index(self.target, read_item.dest_offsets, read_item.lengths)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing is left to do: the reader has copied into the target."""


def save_weights(state: Path, layout: WeightLayout, parameters: dict[str, Tensor], prefix: str = "") -> None:
    """Save every rank's parameters, without optimizer. Collective.

    Args:
        state: an existing empty folder that every rank sees.
        layout: where the parameters lie.
        parameters: this rank's parts by name, as `WeightLayout.held` lists them.
        prefix: before the names in the checkpoint.
    """
    shards = {}
    for parameter in layout.held():
        for number, shard in enumerate(sharded(parameter, parameters[parameter.name], layout)):
            shards[f"{parameter.name}.{number}"] = replace(shard, key=prefix + shard.key)
    fetch_results_here()
    staged = StagedState(dist_checkpointing.save(shards, str(state), async_sharded_save=True), [])
    staged.write()
    staged.finish()


def fetch_results_here() -> None:
    """Let the next save fetch its results in this process.

    megatron-core's own queue lives in a manager process, which takes seconds to start and outlives a killed trainer.
    """
    filesystem_async._results_queue = queue.Queue()


def checkpoint_key(parameter: Parameter, layout: WeightLayout) -> tuple[str, int | None]:
    """The checkpoint's name of the parameter, and its layer, which is the first axis of what stands under that name."""
    if parameter.name == HEAD and layout.shape.tied:
        return EMBEDDING, None
    pieces = parameter.name.split(".", 3)
    if pieces[:2] != ["decoder", "layers"]:
        return parameter.name, None
    return f"decoder.layers.{_KEYS.get(pieces[3], pieces[3])}", int(pieces[2])


def sharded(parameter: Parameter, local: Tensor, layout: WeightLayout) -> Iterator[ShardedTensor]:
    """This rank's part of the parameter, or of its two halves, and its place in the whole."""
    mesh = layout.mesh
    key, layer = checkpoint_key(parameter, layout)
    prepended = 0 if layer is None else 1
    offsets = [] if layer is None else [(0, layer, layout.shape.layers)]
    # Copies: the first one is the one that is saved. A tied head is a copy of the embedding.
    replica = (
        1 if parameter.name == HEAD and layout.shape.tied else 0,
        0 if parameter.split else mesh.tensor_rank,
        mesh.data_rank,
    )
    halves = local.chunk(2) if parameter.split == "gated" else [local]
    for number, part in enumerate(halves):
        cut = []
        if parameter.split:
            axis = prepended + (1 if parameter.split == "columns" else 0)
            cut = [(axis, number * mesh.tensor + mesh.tensor_rank, len(halves) * mesh.tensor)]
        yield ShardedTensor.from_rank_offsets(
            key,
            part,
            *offsets,
            *cut,
            replica_id=replica,
            prepend_axis_num=prepended,
            allow_shape_mismatch=parameter.name in (EMBEDDING, HEAD),
        )
