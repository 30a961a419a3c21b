"""The local engine: a transformers model and continuous batching, in the actor's or the server's process."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from crossthink.errors import UserError
from recipes.models.hf_config import load_config
from recipes.rollout.interface import (
    Limits,
    RefitError,
    Request,
    RequestError,
    Response,
    SamplingParams,
    Weights,
)
from recipes.rollout.local.batch import Batch, Sample
from recipes.rollout.local.decoder import Decoder, check_config
from recipes.rollout.local.prefill import fill
from recipes.rollout.local.sampler import stream

ENTRY_SHARE = 16  # requests wait until this part of the batch is free, so that prompts are read several at a time


class LocalEngine:
    """Implements `recipes.rollout.interface.StreamingEngine`. Same seed, same weights, same tokens."""

    def __init__(self, folder: Path, device: torch.device, batch_size: int, max_tokens: int | None = None) -> None:
        """Build the model of a Hugging Face folder without weights: the first refit brings them.

        Args:
            folder: where config.json is.
            device: where to generate.
            batch_size: samples generated side by side.
            max_tokens: longest prompt with its response; None: as memory allows.

        Raises:
            ConfigError: a model that this engine does not know.
        """
        config = load_config(folder)
        check_config(config, str(folder))
        config.dtype = torch.float32  # what transformers 5 builds in; 4 builds in torch's default
        with torch.device(device):
            self._model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        self.device = device
        self.batch_size = batch_size
        self.version: int | None = None
        self.parameters: dict[str, Tensor] = dict(self._model.named_parameters())
        """Weights by Hugging Face name, a tied head once, as the embedding. A refit may write into them directly."""
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.parameters.items()}
        longest = sys.maxsize if max_tokens is None else max_tokens
        self._limits = Limits(longest, longest, config.vocab_size)
        self._decoder = Decoder(self._model)
        self._batch = Batch(self._decoder.new_cache(), device)
        self._queue: deque[Sample] = deque()
        self._asleep = False

    @property
    def running(self) -> int:
        """See `StreamingEngine.running`."""
        return len(self._batch)

    @property
    def waiting(self) -> int:
        """See `StreamingEngine.waiting`."""
        return len(self._queue)

    @property
    def cached_tokens(self) -> int:
        """Tokens of running requests that the KV cache holds."""
        return self._batch.tokens

    @torch.no_grad()
    def refit(self, weights: Weights, version: int) -> None:
        """See `RolloutEngine.refit`. A pair that is one of `parameters` itself has been written already.

        Raises:
            RefitError: see `check_refit`: the weights stay as they are. Or a tensor is unknown, missing, brought twice
                or of another shape: the engine then refuses to generate, as it does where `weights` fails.
        """
        self.check_refit()
        self.version = None
        missing = dict(self.parameters)
        for name, tensor in weights():
            target = missing.pop(name, None)
            if target is None or target.shape != tensor.shape:
                has = f"shape {self.shapes[name]}" if name in self.shapes else "no such tensor"
                if name in self.shapes and target is None:
                    has = "taken it over already"
                raise RefitError(f"Refit brings '{name}' of shape {tuple(tensor.shape)}; the rollout model has {has}.")
            if tensor is not target:
                target.copy_(tensor)
        if missing:
            raise RefitError(f"Refit lacks {len(missing)} tensors of the rollout model, '{min(missing)}' among them.")
        self.version = version

    def check_refit(self) -> None:
        """Refuse new weights now.

        Raises:
            RefitError: requests are under way, or the engine sleeps.
        """
        self._check_idle("Refit")
        if self._asleep:
            raise RefitError("Refit: the rollout engine sleeps; wake it first.")

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[Response]:
        """See `RolloutEngine.generate`.

        Raises:
            UserError: the engine has no whole set of weights.
            RequestError: see `submit`.
        """
        assert not self.running and not self.waiting, "requests of others are under way"
        self._check_weights()
        found: dict[int, Response] = {}
        try:
            # Neighbours in length waste the least padding; the sort is stable, so groups stay together.
            for index in sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids)):
                self.submit(index, requests[index], params)
            while len(found) < len(requests):
                found.update(self.step())
        finally:
            self.abort(range(len(requests)))
        return [found[index] for index in range(len(requests))]

    def check(self, request: Request, params: SamplingParams) -> None:
        """Refuse what can never be answered.

        Raises:
            RequestError: empty or too long, an id that the model has not, or an impossible parameter.
        """
        self._limits.check(request, params)
        _check_params(request, params)

    def submit(self, ticket: int, request: Request, params: SamplingParams) -> None:
        """See `StreamingEngine.submit`.

        Raises:
            RequestError: see `check`.
            UserError: the engine has no whole set of weights.
        """
        self._check_weights()
        self.check(request, params)
        kind = replace(params, max_tokens=0, seed=0, step=0)
        numbers = stream(request, params)
        self._queue.append(
            Sample(ticket, request, request.budget(params), kind, numbers, hash(request.prompt_ids)),
        )

    @torch.no_grad()
    def step(self) -> list[tuple[int, Response]]:
        """See `StreamingEngine.step`."""
        self._let_in()
        if not len(self._batch):
            return []
        ids_b, positions_b, runs = self._batch.inputs()
        over = self._batch.draw(self._decoder.next_logits(ids_b, positions_b, self._batch.cache, runs))
        if not len(over):
            return []
        assert self.version is not None, "a refit waits for what runs"
        finished = self._batch.responses(over, self.version)
        self._batch.remove(over)
        return finished

    @torch.no_grad()
    def abort(self, tickets: Iterable[int]) -> None:
        """See `StreamingEngine.abort`."""
        wanted = set(tickets)
        self._queue = deque(sample for sample in self._queue if sample.ticket not in wanted)
        rows = [row for row, sample in enumerate(self._batch.samples) if sample.ticket in wanted]
        if rows:
            self._batch.remove(np.array(rows))

    def sleep(self) -> None:
        """Give the memory of the weights back, until `wake`.

        Raises:
            RefitError: requests are under way.
        """
        self._check_idle("Sleep")
        self.version, self._asleep = None, True
        for parameter in self.parameters.values():
            parameter.data = parameter.data.new_empty(0)

    def wake(self) -> None:
        """Take the memory again; the next refit fills it."""
        if self._asleep:
            for name, parameter in self.parameters.items():
                parameter.data = parameter.data.new_empty(self.shapes[name])
        self._asleep = False

    def _let_in(self) -> None:
        """Give waiting requests, the oldest first, free rows: few at a time only where few wait."""
        free = self.batch_size - len(self._batch)
        if not self._queue or free < min(len(self._queue), max(1, self.batch_size // ENTRY_SHARE)):
            return
        entering = [self._queue.popleft() for _ in range(min(free, len(self._queue)))]
        first = len(self._batch)
        self._batch.enter(sorted(entering, key=lambda sample: -len(sample.request.prompt_ids)))
        fill(self._decoder, self._batch, first)

    def _check_weights(self) -> None:
        if self.version is None:
            raise UserError("The rollout engine has no whole set of weights; refit it before generating.")

    def _check_idle(self, what: str) -> None:
        if self.running or self.waiting:
            raise RefitError(
                f"{what}: {self.running + self.waiting} requests are under way; wait for them, or abort them."
            )


def _check_params(request: Request, params: SamplingParams) -> None:
    """Refuse what no draw can be made with; `Limits.check` looks at the rest."""
    for name, value, right, allowed in (
        ("temperature", params.temperature, params.temperature >= 0, "at least 0"),
        ("top_p", params.top_p, 0 < params.top_p <= 1, "above 0, at most 1"),
        ("vocabulary", params.vocabulary, params.vocabulary >= 1, "at least 1"),
        ("seed", params.seed, params.seed >= 0, "at least 0"),
        ("step", params.step, params.step >= 0, "at least 0"),
        ("prompt", request.prompt, request.prompt >= 0, "at least 0"),
        ("sample", request.sample, request.sample >= 0, "at least 0"),
    ):
        if not right:
            raise RequestError(f"{name}: {value} is impossible; {allowed} is needed.")
