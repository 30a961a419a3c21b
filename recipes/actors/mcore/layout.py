"""Which Hugging Face tensors make each megatron-core parameter, and which part of them a rank holds.

| megatron-core | Hugging Face | layout |
|---|---|---|
| linear_qkv | q_proj, k_proj, v_proj | by key-value group: its queries, its key, its value |
| linear_fc1 | gate_proj, up_proj | gate on top of up; each half is split among tensor-parallel ranks |
| everything else | one tensor | as it is |

A rank's part of a Hugging Face tensor is always one slice, of rows or of columns, so weights move between files and
ranks without a whole tensor anywhere. One process alone is the case of a single rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megatron.core.models.gpt import GPTModel
from torch import Tensor
from transformers import PretrainedConfig

from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.pipeline import first_layer_of_stage, layers_of_stage
from recipes.models.families import read_shape

HEAD = "output_layer.weight"
EMBEDDING = "embedding.word_embeddings.weight"
# Transformer Engine fuses a norm into the projection behind it. Checkpoints of megatron-core use its names always.
FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}


def padded_vocabulary(config: PretrainedConfig, tensor: int, multiple: int = 1) -> int:
    """Rows of the embedding: the config's, rounded up so that tensor-parallel ranks share them evenly.

    Args:
        config: the model's config.
        tensor: tensor-parallel size.
        multiple: the rows are a multiple of this, too.
    """
    step = math.lcm(tensor, multiple)
    return -(-config.vocab_size // step) * step


@dataclass(frozen=True)
class Parameter:
    """How one megatron-core parameter relates to Hugging Face tensors.

    Attributes:
        name: the parameter's name with the global layer number.
        hf_names: the tensors that make it.
        hf_shapes: their shapes.
        shape: its whole shape, tensor parallelism undone, vocabulary padded.
        split: None where every tensor-parallel rank holds it whole; "rows", "columns", or "gated" (rows of two halves).
    """

    name: str
    hf_names: tuple[str, ...]
    hf_shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    split: str | None


class WeightLayout:
    """The whole model's parameters, in one fixed order, and where this rank's parts of them lie."""

    def __init__(
        self,
        config: PretrainedConfig,
        mesh: Mesh,
        stage_layers: Sequence[int] | None = None,
        vocabulary_rows: int | None = None,
    ) -> None:
        """
        Args:
            config: the model's config.
            mesh: this rank's place.
            stage_layers: layers of each pipeline stage; None: as even as can be.
            vocabulary_rows: of the embedding; None: no more than tensor parallelism needs.
        """
        self.shape = read_shape(config.to_dict(), config.name_or_path or "the model")
        self.mesh = mesh
        self.stage_layers = list(stage_layers or layers_of_stage(self.shape.layers, mesh.pipeline))
        self.vocabulary_rows = vocabulary_rows or padded_vocabulary(config, mesh.tensor)

    def layer(self, number: int) -> list[Parameter]:
        """Parameters of decoder layer `number`."""
        s = self.shape
        ours, theirs = f"decoder.layers.{number}.", f"model.layers.{number}."
        query_rows, key_rows = s.heads * s.head_dim, s.kv_heads * s.head_dim
        qkv_names = tuple(f"{theirs}self_attn.{x}_proj" for x in "qkv")

        def qkv(kind: str, *columns: int) -> Parameter:
            return Parameter(
                f"{ours}self_attention.linear_qkv.{kind}",
                tuple(f"{name}.{kind}" for name in qkv_names),
                tuple((rows, *columns) for rows in (query_rows, key_rows, key_rows)),
                (query_rows + 2 * key_rows, *columns),
                "rows",
            )

        def plain(mine: str, hf: str, shape: tuple[int, ...], split: str | None = None) -> Parameter:
            return Parameter(ours + mine, (theirs + hf,), (shape,), shape, split)

        found = [qkv("weight", s.hidden)]
        if s.qkv_bias:
            found.append(qkv("bias"))
        found.append(
            Parameter(
                f"{ours}mlp.linear_fc1.weight",
                (f"{theirs}mlp.gate_proj.weight", f"{theirs}mlp.up_proj.weight"),
                ((s.mlp, s.hidden), (s.mlp, s.hidden)),
                (2 * s.mlp, s.hidden),
                "gated",
            )
        )
        found += [
            plain("self_attention.linear_proj.weight", "self_attn.o_proj.weight", (s.hidden, query_rows), "columns"),
            plain("mlp.linear_fc2.weight", "mlp.down_proj.weight", (s.hidden, s.mlp), "columns"),
            plain("input_layernorm.weight", "input_layernorm.weight", (s.hidden,)),
            plain("pre_mlp_layernorm.weight", "post_attention_layernorm.weight", (s.hidden,)),
        ]
        if s.qk_norm:
            found += [
                plain(f"self_attention.{x}_layernorm.weight", f"self_attn.{x}_norm.weight", (s.head_dim,)) for x in "qk"
            ]
        return found

    def stage(self, stage: int) -> list[Parameter]:
        """Parameters of one pipeline stage. A tied head counts with the embedding, on the first stage only."""
        found = [self._table(EMBEDDING, "model.embed_tokens.weight")] if stage == 0 else []
        first = first_layer_of_stage(self.stage_layers, stage)
        for number in range(first, first + self.stage_layers[stage]):
            found += self.layer(number)
        if stage == self.mesh.pipeline - 1:
            width = (self.shape.hidden,)
            found.append(Parameter("decoder.final_layernorm.weight", ("model.norm.weight",), (width,), width, None))
            if not self.shape.tied:
                found.append(self._table(HEAD, "lm_head.weight"))
        return found

    def held(self) -> list[Parameter]:
        """Parameters of this rank's stage, with the last stage's own copy of a tied embedding."""
        found = self.stage(self.mesh.stage)
        if self.shape.tied and self.mesh.is_last_stage and not self.mesh.is_first_stage:
            found.append(self._table(HEAD, "model.embed_tokens.weight"))
        return found

    def everything(self) -> list[Parameter]:
        """Parameters of all stages, in order."""
        return [parameter for stage in range(self.mesh.pipeline) for parameter in self.stage(stage)]

    def local_shape(self, parameter: Parameter) -> tuple[int, ...]:
        """Shape of a tensor-parallel rank's part of the parameter."""
        rows, *columns = parameter.shape
        if parameter.split == "columns":
            return (rows, columns[0] // self.mesh.tensor)
        return (rows // self.mesh.tensor if parameter.split else rows, *columns)

    def slices(self, parameter: Parameter, rank: int) -> list[tuple[slice, ...]]:
        """Tensor-parallel rank `rank`'s slice of each Hugging Face tensor of the parameter."""
        if parameter.split is None:
            return [(slice(0, shape[0]),) for shape in parameter.hf_shapes]
        if parameter.split == "columns":
            width = parameter.shape[1] // self.mesh.tensor
            return [(slice(None), slice(rank * width, (rank + 1) * width))]
        if self._is_table(parameter):
            # The padding beyond the vocabulary is on no file; a rank may hold nothing else.
            rows = self.vocabulary_rows // self.mesh.tensor
            end = self.shape.vocabulary
            return [(slice(min(rank * rows, end), min((rank + 1) * rows, end)),)]
        parts = [shape[0] // self.mesh.tensor for shape in parameter.hf_shapes]
        return [(slice(rank * rows, (rank + 1) * rows),) for rows in parts]

    def views(self, parameter: Parameter, local: Tensor, rank: int) -> list[Tensor]:
        """Rank `rank`'s part of each Hugging Face tensor, as views into its part of the parameter.

        Queries, keys and values lie interleaved by key-value group: their views are [groups, rows of a group, ...], and
        their first two axes together are the rows of the Hugging Face tensor.
        """
        if len(parameter.hf_names) == 3:
            width = self.shape.head_dim
            queries = self.shape.heads // self.shape.kv_heads * width
            grouped = local.unflatten(0, (-1, queries + 2 * width))
            return list(grouped.split([queries, width, width], dim=1))
        if len(parameter.hf_names) == 2:
            return list(local.chunk(2))
        if self._is_table(parameter):
            rows = self.slices(parameter, rank)[0][0]
            return [local[: rows.stop - rows.start]]
        return [local]

    def _table(self, name: str, hf_name: str) -> Parameter:
        s = self.shape
        return Parameter(name, (hf_name,), ((s.vocabulary, s.hidden),), (self.vocabulary_rows, s.hidden), "rows")

    def _is_table(self, parameter: Parameter) -> bool:
        return parameter.name in (EMBEDDING, HEAD)


def local_parameters(model: GPTModel) -> dict[str, Tensor]:
    """This rank's parameters by name with the global layer number; alike with and without Transformer Engine."""
    found = {}
    for name, value in model.named_parameters():
        pieces = name.split(".")
        if pieces[:2] == ["decoder", "layers"]:
            pieces[2] = str(model.decoder.layers[int(pieces[2])].layer_number - 1)
        whole_name = ".".join(pieces)
        for fused, own in FUSED_NORMS.items():
            whole_name = whole_name.replace(fused, own)
        found[whole_name] = value
    return found
