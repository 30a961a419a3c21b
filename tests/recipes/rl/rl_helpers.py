"""Hand-made pieces of a training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from data_prep.rows import PoolRow
from recipes.actors.interface import MAXIMUM, TokenizedSample
from recipes.actors.packing import micro_batches
from recipes.rl.batch import Prompt, RolloutBatch, Sample
from recipes.rl.losses import GrpoLoss, ValueLoss
from recipes.rollout.interface import Response
from reward_server.verdicts import Verdict


def verdict(reward: float | None, status: str | None = None, accuracy: int | None = None, format: int = 1) -> Verdict:
    """A verdict; None stands for an invalid one."""
    if reward is None:
        return Verdict("0", None, None, format, None, status or "bad_gold", 0.0)
    accuracy = int(reward) if accuracy is None else accuracy
    return Verdict("0", reward, accuracy, format, "x", status or ("correct" if reward else "wrong"), 0.0)


def row(number: int = 0, kind: str = "math", **changes: object) -> PoolRow:
    """A pool row."""
    fields = {
        "id": f"{number:032x}",
        "source": "numina_math",
        "domain": "math",
        "kind": kind,
        "question": f"question {number}",
        "options": {"A": "one", "B": "two"} if kind == "mcq" else None,
        "ground_truth": ["A" if kind == "mcq" else str(number)],
        "prompt": [{"role": "user", "content": f"question {number}"}],
    }
    return PoolRow(**(fields | changes))


def prompt(number: int = 0, token_ids: Sequence[int] = (1, 2, 3), **changes: object) -> Prompt:
    """A prompt of a pool row."""
    return Prompt(row(number, **changes), f"question {number}", tuple(token_ids))


def response(length: int, finish: str = "stop", version: int = 0) -> Response:
    """A response of `length` tokens."""
    return Response(list(range(10, 10 + length)), [-0.5 * (i + 1) for i in range(length)], finish, version)


def rollout_batch(
    rewards: Sequence[Sequence[float | None]], lengths: Sequence[Sequence[int]] | None = None
) -> RolloutBatch:
    """A batch from rewards (None: invalid) and response lengths, group by group."""
    samples = [
        Sample(prompt(p), g, response(lengths[p][g] if lengths else 1 + (p + g) % 3), "text", verdict(reward))
        for p, group in enumerate(rewards)
        for g, reward in enumerate(group)
    ]
    return RolloutBatch(samples, len(rewards[0]))


def sample_of(log_probs: Tensor, prompt_length: int = 2, **per_token: Tensor) -> TokenizedSample:
    """A tokenized sample whose response has as many tokens as `log_probs`, with per-token tensors of that length."""
    ids = list(range(prompt_length + len(log_probs)))
    return TokenizedSample(ids, prompt_length, {"rollout_log_probs": log_probs.detach(), **per_token})


def loss_over(
    loss: GrpoLoss | ValueLoss, samples: Sequence[TokenizedSample], log_probs: Sequence[Tensor], budget: int = 10**9
) -> tuple[Tensor, dict[str, float]]:
    """The loss and its sums over all micro-batches of `samples` under a token budget.

    Args:
        log_probs: of each sample's response tokens, with gradient.
    """
    total = torch.zeros(())
    sums: dict[str, float] = {}
    for indices, batch in micro_batches(samples, budget, pad_id=0):
        placed = [
            torch.cat([torch.zeros(start), values, torch.zeros(batch.mask_bt.shape[1] - start - len(values))])
            for start, values in _starts(samples, log_probs, indices)
        ]
        part, found = loss(torch.stack(placed), batch.per_token_bt)
        total = total + part
        sums = added(sums, found)
    return total, sums


def added(sums: Mapping[str, float], found: Mapping[str, Any]) -> dict[str, float]:
    """Named sums of two parts of a batch, put together as the engines do."""
    result = dict(sums)
    for name, value in found.items():
        both = (result.get(name, 0.0), float(value))  # no maximum is below 0
        result[name] = max(both) if name.startswith(MAXIMUM) else sum(both)
    return result


def _starts(
    samples: Sequence[TokenizedSample], log_probs: Sequence[Tensor], indices: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    for index in indices:
        yield samples[index].prompt_length - 1, log_probs[index]


def loss_over_ranks(loss, samples, leaves, ranks, budget):
    """What `loss_over` gives for each rank's samples, added up: the loss and the named sums.

    Args:
        ranks: the rank, 0 to 2, that each sample is dealt to.
    """
    total, sums = torch.zeros(()), {}
    for rank in range(3):
        mine = [i for i in range(len(samples)) if ranks[i] == rank]
        part, found = loss_over(loss, [samples[i] for i in mine], [leaves[i] for i in mine], budget)
        total = total + part
        sums = added(sums, found)
    return total, sums
