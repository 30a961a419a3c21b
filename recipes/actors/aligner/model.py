"""Aligner's models, with a loss that is handed in, and how they come up under NeMo's trainer."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import Float16Module
from nemo.collections.common.tokenizers.huggingface import AutoTokenizer
from nemo_aligner.models.nlp.gpt.megatron_gpt_reinforce_actor import MegatronGPTReinforceActorModel
from nemo_aligner.utils.train_script_utils import (
    extract_optimizer_scheduler_from_ptl_model,
    init_distributed,
    init_peft,
    init_using_ptl,
    resolve_and_create_trainer,
)
from nemo_aligner.utils.train_utils import clip_gradients, set_sync_funcs
from nemo_aligner.utils.utils import retrieve_model_state_dict_in_cpu
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from crossthink.tokenizer_folder import read_tokenizer
from recipes.actors.aligner.config import SECTION
from recipes.actors.interface import LossFunction, StepResult, TokenizedSample
from recipes.actors.mcore.passes import Passes

Batch = tuple[Sequence[TokenizedSample], LossFunction]


class OwnLoss:
    """What each of Aligner's models gets from this project. `passes` is set by the owner, `model` and `cfg` by NeMo.

    What stays Aligner's: how the model is built and wrapped, what comes before and after a step, gradient reduction and
    clipping, the optimizers, checkpoints.
    """

    model: GPTModel | Float16Module
    cfg: DictConfig
    passes: Passes
    phase = "train"
    """What messages call the training passes."""

    @property
    def gpt(self) -> GPTModel:
        """The model without NeMo's wrapper for bfloat16."""
        return self.model.module if isinstance(self.model, Float16Module) else self.model

    def get_loss_and_metrics(self, batch: Batch, forward_only: bool) -> tuple[float, dict[str, float]]:
        """Add the global loss's gradient to the parameters'.

        Args:
            batch: the global batch and the loss function, in place of Aligner's dict of tensors.
            forward_only: must be False; log-probs come from `get_inference_log_probs`.

        Returns:
            The loss, and the sums over the global batch.
        """
        assert not forward_only, "a loss without a gradient is not needed by any caller"
        samples, loss = batch
        set_sync_funcs(self, forward_only=False)
        sums = self.passes.gradients(self.model, self.gpt, samples, loss, self.phase)
        return sums["loss"], sums

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As NeMo's, with the config in plain types, so that it loads with `weights_only=True`."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]  # of the class beside this one
        checkpoint["hyper_parameters"] = OmegaConf.to_container(OmegaConf.create(checkpoint["hyper_parameters"]))

    def _build_tokenizer(self) -> None:
        """NeMo's tokenizer of a folder that transformers 4 or 5 wrote."""
        folder = Path(self.cfg.tokenizer.type)
        with tempfile.TemporaryDirectory() as own:
            read_tokenizer(transformers, folder, local_files_only=True).save_pretrained(own)
            self.tokenizer = AutoTokenizer(own, use_fast=True)


class PolicyModel(OwnLoss, MegatronGPTReinforceActorModel):
    """Aligner's REINFORCE actor whose loss and log-probs are this project's; the swap of the reference policy's weights
    stays Aligner's."""

    @torch.no_grad()
    def get_inference_log_probs(
        self, response_tokens: Sequence[TokenizedSample], forward_micro_batch_size: int | None = None
    ) -> list[Tensor]:
        """float32 [response tokens] of each sample of the global batch, on every rank.

        Args:
            response_tokens: samples in place of Aligner's padded tensor, so that its `get_init_policy_logprobs`, which
                calls this with the reference policy's weights in place, takes samples too.
            forward_micro_batch_size: not looked at; micro-batches are cut by tokens.
        """
        set_sync_funcs(self, forward_only=True)
        return self.passes.per_token(self.model, response_tokens, "log-probs")


class Trained:
    """One of Aligner's models under NeMo's trainer, ready for optimizer steps."""

    def __init__(
        self,
        config: Mapping[str, Any],
        load: Callable[[GPTModel], None],
        with_reference: bool,
        kind: Callable[[DictConfig, Any], Any] = PolicyModel,
    ) -> None:
        """
        Args:
            config: what `nemo_config` made.
            load: fills the model's weights; called before anything copies them.
            with_reference: keep the first weights in host memory as the reference policy.
            kind: the model's class.
        """
        self.config: DictConfig = OmegaConf.create(config)
        self.trainer = resolve_and_create_trainer(self.config, SECTION)
        self.model: Any = kind(self.config.model, self.trainer)
        load(self.model.gpt)
        init_peft(self.model, self.config.model)
        if with_reference:
            self.model.init_policy_state_dict = retrieve_model_state_dict_in_cpu(
                self.model, megatron_amp_O2=self.config.model.megatron_amp_O2
            )
        init_distributed(self.trainer, self.model, self.config.model.transformer_engine)
        # No data set: the loop brings its own batches, and without a schedule no length is asked for.
        init_using_ptl(self.trainer, self.model, None, None)
        self.optimizer, _ = extract_optimizer_scheduler_from_ptl_model(self.model)

    def step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        """One optimizer step in the order of Aligner's trainer; none where loss or gradient is not finite."""
        self.model.prepare_for_training()
        self.optimizer.zero_grad()
        self.model.prepare_for_training_step()
        value, sums = self.model.get_loss_and_metrics((samples, loss), forward_only=False)
        self.model.finish_training_step()
        limit = self.config.trainer.gradient_clip_val
        norm = float(clip_gradients(self.model, limit if limit > 0 else math.inf))
        if math.isfinite(value) and math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        self.model.finish_training()
        return StepResult(norm, sums)
