"""PPO's value model on NeMo-Aligner's critic: the policy's body with Aligner's value head, in processes of its own.

Aligner's head stands on the hidden states and has a bias. Weight and bias begin at 0, so that training begins at the
value 0 everywhere, and the bias stays there: the engine on megatron-core has none, and both train alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.trainer import Trainer
from megatron.core.models.gpt import GPTModel
from nemo_aligner.models.nlp.gpt.megatron_gpt_critic import MegatronGPTCriticModel
from nemo_aligner.utils.train_utils import set_sync_funcs
from omegaconf import DictConfig
from torch import Tensor

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.aligner import checkpoint
from recipes.actors.aligner.config import critic_config, nemo_config, sizes_of
from recipes.actors.aligner.critic_names import CRITIC
from recipes.actors.aligner.model import OwnLoss, Trained
from recipes.actors.interface import LossFunction, MicroBatch, Staged, StepResult, TokenizedSample
from recipes.actors.mcore.import_weights import load_hf_weights
from recipes.actors.mcore.layout import HEAD, WeightLayout, padded_vocabulary
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.passes import Passes
from recipes.actors.mcore.precision import has_transformer_engine, resolve_precision
from recipes.models.hf_config import load_config
from recipes.models.model_folder import check_shape
from recipes.models.nemo_folder import VOCABULARY_MULTIPLE

VALUE_HEAD = ("rm_head.weight", "rm_head.bias")


class ValueModel(OwnLoss, MegatronGPTCriticModel):
    """Aligner's critic whose loss and passes are this project's."""

    phase = "train the critic"

    def __init__(self, cfg: DictConfig, trainer: Trainer) -> None:
        super().__init__(cfg, trainer)
        self.critic_state_dict_cpu = None  # a copy, for when a reward model takes turns on the same weights

    def model_provider_func(self, pre_process: bool, post_process: bool) -> GPTModel:
        """Aligner's model, as the schedule of this project's passes calls it."""
        model = super().model_provider_func(pre_process, post_process)
        forward = model.forward

        def called_by_the_schedule(
            ids_bt: Tensor, positions_bt: Tensor, mask: None, packed_seq_params: None = None
        ) -> Tensor:
            return forward(ids_bt, None, positions_bt, mask)

        model.forward = called_by_the_schedule
        if post_process:
            # Nothing calls the output layer, but megatron-core's checkpoint format asks for it.
            for parameter in (*model.rm_head.parameters(), *model.output_layer.parameters()):
                torch.nn.init.zeros_(parameter)
            for fixed in (model.rm_head.bias, *model.output_layer.parameters()):
                fixed.requires_grad_(False)
        return model

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As of Aligner's reward model, which the critic is, without the critic's copy of the weights."""
        super(MegatronGPTCriticModel, self).on_load_checkpoint(checkpoint)

    def finish_training(self) -> None:
        """Adam's state leaves the device until the next step, where it may; Aligner copies the weights here."""
        self.offload_adam_states()


class ValueEngine:
    """Implements `recipes.actors.interface.Critic` in the processes that hold the model."""

    def __init__(
        self,
        folder: Path,
        mesh: Mesh,
        optimizer: OptimizerConfig,
        *,
        micro_batch_tokens: int,
        seed: int,
        settings: ActorConfig,
    ) -> None:
        """Build the model with the policy's first weights and a new value head.

        Args:
            folder: Hugging Face folder of the model that the policy starts from.
            mesh: this rank's place among the critic's ranks.
            optimizer: Adam's settings; the learning rate comes with each step.
            micro_batch_tokens: most positions in a micro-batch.
            seed: seeds NeMo's RNG of every rank.
            settings: `actor.*`; its parallel sizes are those of `mesh`. Aligner's value head knows neither sequence
                parallelism nor FP8, so the critic does without, which changes no more than rounding.
        """
        settings = replace(settings, sequence_parallel=False, fp8="off")
        config = load_config(folder)
        check_shape(config.to_dict(), mesh.tensor, mesh.pipeline, str(folder))
        gpu = mesh.device.type == "cuda"
        rows = padded_vocabulary(config, mesh.tensor, VOCABULARY_MULTIPLE)
        layout = WeightLayout(config, mesh, vocabulary_rows=rows)
        sizes = sizes_of(mesh, rows, config.max_position_embeddings)
        precision = resolve_precision(settings, gpu, has_transformer_engine())
        nemo = nemo_config(layout.shape, sizes, settings, optimizer, precision, tokenizer=folder, seed=seed, gpu=gpu)
        self.mesh = mesh
        self.passes = Passes(mesh, _values, pad_id=0, micro_batch_tokens=micro_batch_tokens)
        self.trained = Trained(
            critic_config(nemo, offload=settings.offload),
            lambda model: load_hf_weights(model, layout, folder, skip=(HEAD, *VALUE_HEAD)),
            with_reference=False,
            kind=ValueModel,
        )
        self.model = self.trained.model
        self.model.passes = self.passes

    def values(self, samples: Sequence[TokenizedSample]) -> list[Tensor]:
        """See `Critic.values`."""
        self.model.eval()
        set_sync_funcs(self.model, forward_only=True)
        return self.passes.per_token(self.model.model, samples, "values")

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        """See `Critic.train_step`."""
        return self.trained.step(samples, loss, lr)

    def offload(self) -> None:
        """See `Critic.offload`."""
        self.model.offload_adam_states()

    def onload(self) -> None:
        """See `Critic.onload`."""
        self.model.onload_adam_states()

    def stage(self, folder: Path) -> Staged:
        """See `Critic.stage`; the critic's own folder in `folder` is made where it is missing."""
        self.onload()
        return checkpoint.stage(folder / CRITIC, self.trained, self.mesh, name="")

    def load(self, folder: Path) -> None:
        """See `Critic.load`."""
        self.onload()
        checkpoint.load(folder / CRITIC, self.trained, self.mesh, name="")


def _values(model: GPTModel, batch: MicroBatch, values_bt: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """values_bt with gradient, 0 outside the mask."""
    return values_bt.float().masked_fill(~batch.mask_bt.to(values_bt.device), 0.0), {}
