"""The policy on megatron-core: log-probs, optimizer steps, weights out, save and load."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron.core.models.gpt import GPTModel
from torch import Tensor

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.interface import LossFunction, Staged, StepResult, TokenizedSample
from recipes.actors.mcore.export_weights import hf_weights
from recipes.actors.mcore.head import end_with_hidden_states, policy_head
from recipes.actors.mcore.import_weights import load_hf_weights
from recipes.actors.mcore.layout import WeightLayout
from recipes.actors.mcore.mesh import Mesh
from recipes.actors.mcore.precision import without_fp8
from recipes.actors.megatron.engine import Engine
from recipes.actors.megatron.model import begin, build_model, stage_layers
from recipes.actors.megatron.offload import SwappedWeights


class MegatronActor:
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
        settings: ActorConfig | None = None,
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
            seed: seeds megatron-core's RNG of every rank.
            with_reference: keep the first weights for `log_probs(reference=True)`, as `settings.reference` says.
            settings: `actor.*`; its parallel sizes are those of `mesh`. None: the defaults.
        """
        settings = settings or ActorConfig()
        config = begin(folder, mesh, seed)
        self.mesh = mesh
        self.vocabulary = min(vocabulary, config.vocab_size)
        self.pad_id = pad_id
        self.fp8_log_probs = settings.fp8_log_probs
        self.layout = WeightLayout(config, mesh, stage_layers(config, mesh, settings))
        self.model = build_model(config, mesh, settings)
        end_with_hidden_states(self.model)
        load_hf_weights(self.model, self.layout, folder)
        self.reference: GPTModel | None = None
        self.reference_weights: SwappedWeights | None = None
        if with_reference and settings.reference == "offload":
            self.reference_weights = SwappedWeights(self.model)
        elif with_reference:
            self.reference = build_model(config, mesh, settings).eval().requires_grad_(False)
            end_with_hidden_states(self.reference)
            load_hf_weights(self.reference, self.layout, folder)
        self.engine = Engine(
            self.model,
            mesh,
            optimizer,
            settings,
            head=policy_head(self.layout, self.vocabulary, temperature, settings.head_chunk_mb << 20),
            pad_id=pad_id,
            micro_batch_tokens=micro_batch_tokens,
        )
        self.passes = self.engine.passes

    def log_probs(self, samples: Sequence[TokenizedSample], reference: bool = False) -> list[Tensor]:
        """See `Actor.log_probs`."""
        self.engine.gather()
        with contextlib.ExitStack() as stack:
            model = self.model
            if reference and self.reference_weights is not None:
                stack.enter_context(self.reference_weights.in_place_of_own(model))
            elif reference:
                assert self.reference is not None, "the actor was built without a reference policy"
                model = self.reference
            if not self.fp8_log_probs:
                stack.enter_context(without_fp8(model.config))
            return self.engine.per_token(samples, "reference log-probs" if reference else "log-probs", model)

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        """See `Actor.train_step`."""
        return self.engine.train_step(samples, loss, lr, "train")

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `Actor.weights`."""
        self.engine.gather()
        return hf_weights(self.model, self.layout)

    def offload(self) -> None:
        """See `Actor.offload`."""
        self.engine.offload()

    def onload(self) -> None:
        """See `Actor.onload`."""
        self.engine.onload()

    def stage(self, folder: Path) -> Staged:
        """See `Actor.stage`."""
        return self.engine.stage(folder)

    def load(self, folder: Path) -> None:
        """See `Actor.load`."""
        self.engine.load(folder)
