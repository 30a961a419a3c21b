"""Weights into the ranks of a model: each reads its own slices, straight from the safetensors of a model folder.

A process holds its share of the parameters, and of the files only the pages of the tensor that it is reading.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from crossthink.errors import UserError
from recipes.actors.mcore.dist_weights import STATE, DistSource
from recipes.actors.mcore.layout import EMBEDDING, Parameter, WeightLayout, local_parameters
from recipes.models.model_folder import is_megatron_folder
from recipes.models.weights import SafetensorsFolder

LM_HEAD = "lm_head.weight"
# Buffers that old checkpoints list among the weights.
_IGNORED = ("rotary_emb.inv_freq",)


class SafetensorsSource:
    """A rank's part of each megatron-core parameter, out of a Hugging Face folder."""

    def __init__(self, layout: WeightLayout, folder: Path) -> None:
        """Look at the headers of all files.

        Raises:
            UserError: a file is damaged, or a tensor is missing or too many; names file and tensor.
        """
        self.layout = layout
        self.files = SafetensorsFolder(folder)
        wanted = [name for parameter in layout.everything() for name in parameter.hf_names]
        self.files.check_names(wanted, (*_IGNORED, LM_HEAD) if layout.shape.tied else _IGNORED)

    def dtype(self, parameter: Parameter) -> torch.dtype:
        """The type in which the files hold the parameter."""
        return self.files.shape_and_dtype(parameter.hf_names[0])[1]

    @torch.no_grad()
    def fill(self, parameter: Parameter, local: Tensor) -> None:
        """Copy this rank's part of the parameter into `local`; rows that pad the vocabulary become 0.

        Raises:
            UserError: a tensor has another shape than the config says, or a tied model's head is another than its
                embedding; names file and tensor.
        """
        rank = self.layout.mesh.tensor_rank
        if parameter.name == EMBEDDING:
            self._check_tied_head(parameter, rank)
        views = self.layout.views(parameter, local, rank)
        parts = self.layout.slices(parameter, rank)
        for name, shape, part, view in zip(parameter.hf_names, parameter.hf_shapes, parts, views, strict=True):
            view.copy_(self.files.read_part(name, part, shape).reshape(view.shape))
        if len(views) == 1:
            local[len(views[0]) :].zero_()

    def read(self, parameter: Parameter, dtype: torch.dtype | None = None) -> Tensor:
        """This rank's part of the parameter as a new tensor, of its own type or of `dtype`. Raises as `fill` does."""
        local = torch.empty(self.layout.local_shape(parameter), dtype=dtype or self.dtype(parameter))
        self.fill(parameter, local)
        return local

    def _check_tied_head(self, parameter: Parameter, rank: int) -> None:
        if not self.layout.shape.tied or LM_HEAD not in self.files.files:
            return
        (part,), (shape,) = self.layout.slices(parameter, rank), parameter.hf_shapes
        if not torch.equal(
            self.files.read_part(LM_HEAD, part, shape), self.files.read_part(parameter.hf_names[0], part, shape)
        ):
            raise UserError(
                f"{self.files.folder}: config.json states tie_word_embeddings=true, but {LM_HEAD} differs from "
                f"{parameter.hf_names[0]}. Set tie_word_embeddings to false if the head is to count."
            )


def load_hf_weights(model: GPTModel, layout: WeightLayout, folder: Path, skip: Collection[str] = ()) -> None:
    """Fill this rank's parameters from a Hugging Face folder, or from one that `crossthink convert` made of it.

    Args:
        model: this rank's stage.
        layout: where its parameters come from.
        folder: the model folder.
        skip: parameters of the model that the folder does not hold.

    Raises:
        UserError: a file is damaged, or a tensor is missing, too many or of another shape; names file and tensor.
    """
    source = DistSource(layout, folder / STATE) if is_megatron_folder(folder) else SafetensorsSource(layout, folder)
    targets = {name: value for name, value in local_parameters(model).items() if name not in skip}
    for parameter in layout.held():
        if parameter.name not in skip:
            source.fill(parameter, targets.pop(parameter.name))
    assert not targets, f"parameters without a source: {sorted(targets)}"
