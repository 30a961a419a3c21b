"""The value model of PPO on megatron-core: the policy's body with one output, on the policy's mesh."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.interface import LossFunction, MicroBatch, Staged, StepResult, TokenizedSample
from recipes.actors.mcore.import_weights import load_hf_weights
from recipes.actors.mcore.layout import HEAD, WeightLayout
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.megatron.engine import Engine
from recipes.actors.megatron.model import begin, build_model, stage_layers

CRITIC = "critic"


class ValueHead(torch.nn.Module):
    """One number from each hidden state; zero at first, so that training begins at the value 0 everywhere.

    Stands where megatron-core's output layer stands. Its weight is whole on every tensor-parallel rank, and so is its
    gradient, because every one of them computes the loss of all positions.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.sequence_parallel = config.sequence_parallel
        self.weight = torch.nn.Parameter(torch.zeros(1, config.hidden_size))

    def forward(self, hidden_tbh: Tensor, **_: Any) -> tuple[Tensor, None]:
        """float32 [t, b, 1] of all positions, and no bias."""
        if self.sequence_parallel:
            hidden_tbh = gather_from_sequence_parallel_region(hidden_tbh, tensor_parallel_output_grad=False)
        return torch.nn.functional.linear(hidden_tbh.float(), self.weight.float()), None


class MegatronCritic:
    """Implements `recipes.actors.interface.Critic`."""

    def __init__(
        self,
        folder: Path,
        mesh: Mesh,
        optimizer: OptimizerConfig,
        *,
        pad_id: int,
        micro_batch_tokens: int,
        seed: int,
        settings: ActorConfig | None = None,
    ) -> None:
        """Build the model with the policy's first weights and a new value head.

        Args:
            folder: Hugging Face folder of the model that the policy starts from.
            mesh: this rank's place, the policy's.
            optimizer: Adam's settings; the learning rate comes with each step.
            pad_id: fills the right of micro-batches; never enters a result.
            micro_batch_tokens: most positions in a micro-batch.
            seed: seeds megatron-core's RNG of every rank.
            settings: `actor.*`; its parallel sizes are those of `mesh`. None: the defaults.
        """
        settings = settings or ActorConfig()
        config = begin(folder, mesh, seed)
        untied = copy.deepcopy(config)
        untied.tie_word_embeddings = False  # the embedding has no second use where there is no vocabulary to predict
        model = build_model(untied, mesh, settings)
        if mesh.is_last_stage:
            model.output_layer = ValueHead(model.config).to(model.output_layer.weight)
        layout = WeightLayout(config, mesh, stage_layers(config, mesh, settings))
        load_hf_weights(model, layout, folder, skip=(HEAD,))
        self.engine = Engine(
            model, mesh, optimizer, settings, head=_values, pad_id=pad_id, micro_batch_tokens=micro_batch_tokens
        )

    def values(self, samples: Sequence[TokenizedSample]) -> list[Tensor]:
        """See `Critic.values`."""
        return self.engine.per_token(samples, "values")

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        """See `Critic.train_step`."""
        return self.engine.train_step(samples, loss, lr, "train the critic")

    def offload(self) -> None:
        """See `Critic.offload`."""
        self.engine.offload()

    def onload(self) -> None:
        """See `Critic.onload`."""
        self.engine.onload()

    def stage(self, folder: Path) -> Staged:
        """See `Critic.stage`."""
        return self.engine.stage(self._own(folder))

    def load(self, folder: Path) -> None:
        """See `Critic.load`."""
        self.engine.load(folder / CRITIC)

    def _own(self, folder: Path) -> Path:
        own = folder / CRITIC
        if self.engine.mesh.rank == 0:
            own.mkdir()
        torch.distributed.barrier()
        return own


def _values(model: GPTModel, batch: MicroBatch, values_bt1: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """values_bt with gradient, 0 outside the mask."""
    return values_bt1[..., 0].masked_fill(~batch.mask_bt.to(values_bt1.device), 0.0), {}
