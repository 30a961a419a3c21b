"""The policy on NeMo-Aligner: log-probs, optimizer steps, weights out, save and load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import Float16Module
from torch import Tensor

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.aligner import checkpoint
from recipes.actors.aligner.config import nemo_config, sizes_of
from recipes.actors.aligner.model import Trained
from recipes.actors.interface import LossFunction, MicroBatch, Staged, StepResult, TokenizedSample
from recipes.actors.mcore.export_weights import hf_weights
from recipes.actors.mcore.head import end_with_hidden_states, head_weight, policy_head
from recipes.actors.mcore.import_weights import load_hf_weights
from recipes.actors.mcore.layout import WeightLayout, padded_vocabulary
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.passes import Head, Passes
from recipes.actors.mcore.precision import FP8_MULTIPLE, has_transformer_engine, resolve_precision
from recipes.models.hf_config import load_config
from recipes.models.model_folder import check_shape
from recipes.models.nemo_folder import VOCABULARY_MULTIPLE


class AlignerActor:
    """Implements `recipes.actors.interface.Actor`."""

    def __init__(
        self,
        folder: Path,
        mesh: Mesh,
        optimizer: OptimizerConfig,
        *,
        vocabulary: int,
        pad_id: int,
        temperature: float,
        micro_batch_tokens: int,
        seed: int,
        with_reference: bool,
        settings: ActorConfig,
    ) -> None:
        """Build the model and load its weights.

        Args:
            folder: Hugging Face folder of the model that training starts from, which is also the reference policy.
            mesh: this rank's place.
            optimizer: Adam's settings.
            vocabulary: ids the tokenizer knows.
            pad_id: fills the right of micro-batches; never enters a result.
            temperature: the sampling temperature; log-probs are of the distribution that was sampled.
            micro_batch_tokens: most positions in a micro-batch.
            seed: seeds NeMo's RNG of every rank.
            with_reference: keep the first weights, in host memory, for `log_probs(reference=True)`.
            settings: `actor.*`; its parallel sizes are those of `mesh`.
        """
        config = load_config(folder)
        check_shape(config.to_dict(), mesh.tensor, mesh.pipeline, str(folder))
        self.mesh = mesh
        self.vocabulary = min(vocabulary, config.vocab_size)
        self.pad_id = pad_id
        self.settings = settings
        rows = padded_vocabulary(config, mesh.tensor, VOCABULARY_MULTIPLE)
        self.layout = WeightLayout(config, mesh, vocabulary_rows=rows)
        gpu = mesh.device.type == "cuda"
        precision = resolve_precision(settings, gpu, has_transformer_engine())
        sizes = sizes_of(mesh, rows, config.max_position_embeddings)
        self.passes = Passes(
            mesh,
            _unwrapped(policy_head(self.layout, self.vocabulary, temperature, settings.head_chunk_mb << 20)),
            pad_id=pad_id,
            micro_batch_tokens=micro_batch_tokens,
            multiple=(mesh.tensor if settings.sequence_parallel else 1)
            * (FP8_MULTIPLE if precision.fp8 != "off" else 1),
        )
        self.trained = Trained(
            nemo_config(self.layout.shape, sizes, settings, optimizer, precision, tokenizer=folder, seed=seed, gpu=gpu),
            lambda model: load_hf_weights(model, self.layout, folder),
            with_reference,
        )
        self.model = self.trained.model
        self.model.passes = self.passes
        end_with_hidden_states(self.model.gpt)

    def log_probs(self, samples: Sequence[TokenizedSample], reference: bool = False) -> list[Tensor]:
        """See `Actor.log_probs`."""
        self.model.eval()
        if reference:
            return self.model.get_init_policy_logprobs(samples)
        return self.model.get_inference_log_probs(samples)

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        """See `Actor.train_step`."""
        return self.trained.step(samples, loss, lr)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Actor.weights`."""
        return hf_weights(self.model.gpt, self.layout)

    def offload(self) -> None:
        """See `Actor.offload`."""
        self.model.offload_adam_states()

    def onload(self) -> None:
        """See `Actor.onload`."""
        self.model.onload_adam_states()

    def stage(self, folder: Path) -> Staged:
        """See `Actor.stage`."""
        self.onload()
        return checkpoint.stage(folder, self.trained, self.mesh)

    def load(self, folder: Path) -> None:
        """See `Actor.load`."""
        self.onload()
        checkpoint.load(folder, self.trained, self.mesh)


def _unwrapped(head: Head) -> Head:
    """The head, for a model in NeMo's wrapper, which gives float32 whatever type the model computes in."""

    def apply(model: torch.nn.Module, batch: MicroBatch, hidden_bth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        gpt: GPTModel = model.module if isinstance(model, Float16Module) else model
        return head(gpt, batch, hidden_bth.to(head_weight(gpt).dtype))

    return apply
