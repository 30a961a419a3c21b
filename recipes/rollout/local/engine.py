"""The local engine: transformers with a KV cache, in the actor's process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from crossthink.errors import UserError
from recipes.models.hf_config import load_config
from recipes.rollout.interface import FINISH_LENGTH, FINISH_STOP, Request, Response, SamplingParams
from recipes.rollout.local.sampler import draw, uniforms


class LocalEngine:
    """Implements `recipes.rollout.interface.RolloutEngine`. Same seed, same weights, same tokens."""

    def __init__(self, folder: Path, device: torch.device, batch_size: int) -> None:
        """Build the model of a Hugging Face folder without weights: the first refit brings them.

        Args:
            folder: where config.json is.
            device: where to generate.
            batch_size: samples generated side by side.
        """
        config = load_config(folder)
        config.dtype = torch.float32  # what transformers 5 builds in; 4 builds in torch's default
        with torch.device(device):
            self.model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        self.device = device
        self.batch_size = batch_size
        self.version: int | None = None

    @torch.no_grad()
    def refit(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See `RolloutEngine.refit`.

        Raises:
            UserError: a tensor is unknown, missing or of another shape; the engine then refuses to generate.
        """
        self.version = None
        missing = dict(self.model.named_parameters())  # a tied head is listed once, as the embedding
        for name, tensor in weights:
            target = missing.pop(name, None)
            if target is None or target.shape != tensor.shape:
                has = "no such tensor" if target is None else f"shape {tuple(target.shape)}"
                raise UserError(f"Refit brings '{name}' of shape {tuple(tensor.shape)}; the rollout model has {has}.")
            target.copy_(tensor)
        if missing:
            raise UserError(f"Refit lacks {len(missing)} tensors of the rollout model, '{min(missing)}' among them.")
        self.version = version

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[Response]:
        """See `RolloutEngine.generate`."""
        if self.version is None:
            raise UserError("The rollout engine has no whole set of weights; refit it before generating.")
        # Neighbours in length waste the least padding; the sort is stable, so groups stay together.
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
        found: dict[int, Response] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            responses = self._generate_batch([requests[i] for i in batch], params, self.version)
            found.update(zip(batch, responses, strict=True))
        return [found[i] for i in range(len(requests))]

    def _generate_batch(self, requests: list[Request], params: SamplingParams, version: int) -> list[Response]:
        cache, logits_bv, real_bt = self._prefill(requests)
        uniform_bt = uniforms(requests, params).to(self.device)
        stop_ids = torch.tensor(params.stop_ids, device=self.device)
        ids: list[list[int]] = [[] for _ in requests]
        log_probs: list[list[float]] = [[] for _ in requests]
        stopped = [False] * len(requests)
        rows = torch.arange(len(requests), device=self.device)  # which request each row of the batch serves
        for step in range(params.max_tokens):
            ids_b, log_probs_b = draw(logits_bv, uniform_bt[rows, step], params)
            ended_b = torch.isin(ids_b, stop_ids)
            for row, token, value, ended in zip(
                rows.tolist(), ids_b.tolist(), log_probs_b.tolist(), ended_b.tolist(), strict=True
            ):
                ids[row].append(token)
                log_probs[row].append(value)
                stopped[row] = ended
            if step + 1 == params.max_tokens or bool(ended_b.all()):
                break
            if bool(ended_b.any()):
                going = (~ended_b).nonzero()[:, 0]
                cache.batch_select_indices(going)
                rows, ids_b, real_bt = rows[going], ids_b[going], real_bt[going]
            real_bt = torch.cat([real_bt, real_bt.new_ones(len(rows), 1)], dim=1)
            logits_bv = self._next_logits(ids_b[:, None], real_bt, real_bt.sum(1, keepdim=True) - 1, cache)
        return [
            Response(ids[i], log_probs[i], FINISH_STOP if stopped[i] else FINISH_LENGTH, version)
            for i in range(len(requests))
        ]

    def _prefill(self, requests: list[Request]) -> tuple[DynamicCache, Tensor, Tensor]:
        """Read every distinct prompt once, and hand each of its samples a copy of the cache.

        Returns:
            The cache, float32 [b, v] logits of the first response token, and int64 [b, t], 1 where a token is real.
        """
        groups = [list(group) for _, group in groupby(requests, key=lambda r: r.prompt_ids)]
        prompts = [group[0].prompt_ids for group in groups]
        width = max(map(len, prompts))
        ids_bt = torch.zeros(len(prompts), width, dtype=torch.int64)
        real_bt = torch.zeros(len(prompts), width, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids_bt[row, width - len(prompt) :] = torch.tensor(prompt)
            real_bt[row, width - len(prompt) :] = 1
        ids_bt, real_bt = ids_bt.to(self.device), real_bt.to(self.device)
        cache = DynamicCache()
        logits_bv = self._next_logits(ids_bt, real_bt, (real_bt.cumsum(1) - 1).clamp(min=0), cache)
        copies = torch.tensor([len(group) for group in groups], device=self.device)
        rows = torch.arange(len(groups), device=self.device).repeat_interleave(copies)
        cache.batch_select_indices(rows)
        return cache, logits_bv[rows], real_bt[rows]

    def _next_logits(self, ids_bt: Tensor, real_bt: Tensor, positions_bt: Tensor, cache: DynamicCache) -> Tensor:
        """Read tokens into the cache. Returns float32 [b, v], logits of the token that follows them.

        Backbone and head apart: the option to keep the last position's logits only has no name in common to
        transformers 4 and 5.
        """
        out = self.model.base_model(
            input_ids=ids_bt,
            attention_mask=real_bt,
            position_ids=positions_bt,
            past_key_values=cache,
            use_cache=True,
        )
        return self.model.get_output_embeddings()(out.last_hidden_state[:, -1:])[:, -1]
