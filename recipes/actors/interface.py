"""What the training loop asks of a policy engine, after NeMo-Aligner's AlignableGenerativeInterface.

Every rank runs the same loop (SPMD) over the same global batch; the engine takes its data-parallel share of it.
Engines import nothing from `rl`: the loss arrives as a callable.

Shape letters: b samples, t token positions, v vocabulary. `x_bt[i, j]` belongs to the prediction of token j + 1 from
tokens 0..j, so a sequence of n tokens has n - 1 positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenizedSample:
    """One prompt and its response as token ids; `per_token` holds float32 tensors of shape [response tokens]."""

    token_ids: Sequence[int]
    prompt_length: int
    per_token: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def response_length(self) -> int:
        """Response tokens, stop token included."""
        return len(self.token_ids) - self.prompt_length


@dataclass(frozen=True)
class MicroBatch:
    """Samples in rows of one length: one a row, padded on the right, or packed into a single row.

    Attributes:
        token_ids_bt: int64 [b, t], input tokens.
        labels_bt: int64 [b, t], the token after each input token.
        mask_bt: bool [b, t], True where the label is a response token.
        per_token_bt: float32 [b, t] each, zero outside the mask.
        places: row and positions of each sample's response tokens: `x_bt[place]` is [response tokens].
        packed_lengths: positions of each sample in the single row; None where samples have rows of their own.
    """

    token_ids_bt: Tensor
    labels_bt: Tensor
    mask_bt: Tensor
    per_token_bt: Mapping[str, Tensor]
    places: Sequence[tuple[int, slice]]
    packed_lengths: Sequence[int] | None = None


MAXIMUM = "max_"
"""Begins the names among a loss function's sums of which the largest value counts, not the sum."""

# (log_probs_bt, or a critic's values_bt, with gradient; micro-batch) -> (loss, named sums to add up over micro-batches
# and ranks). The loss is this micro-batch's part of the global loss: weights that normalise it stand in per_token.
LossFunction = Callable[[Tensor, MicroBatch], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: the gradient norm before clipping, and the loss function's sums over the global batch.

    `sums` holds the loss itself as `loss`.
    """

    grad_norm: float
    sums: dict[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient were finite. Where they were not, the engine has left its weights as they were."""
        return math.isfinite(self.grad_norm) and math.isfinite(self.sums["loss"])


class Staged(Protocol):
    """A copy of an engine's state on its way to disk; training may go on meanwhile."""

    def write(self) -> None:
        """Write this rank's part. No collective; may run in another thread.

        Raises:
            OSError: no space left, or another failure of the file system.
        """
        ...

    def finish(self) -> None:
        """When every rank has written. Collective."""
        ...


class Actor(Protocol):
    """A policy engine. All methods are collective: every rank calls them with equal arguments."""

    vocabulary: int
    """Ids the tokenizer knows; logits beyond are masked."""

    def log_probs(self, samples: Sequence[TokenizedSample], reference: bool = False) -> list[Tensor]:
        """float32 [response tokens] of each sample, on every rank, from the policy or the reference policy."""
        ...

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        """One optimizer step on the global batch, whatever the split into micro-batches and ranks.

        Where loss or gradient is not finite, weights and optimizer stay as they were, on every rank alike.
        """
        ...

    def offload(self) -> None:
        """Leave the device to the rollout engine as far as `actor.offload` says, until `onload`."""
        ...

    def onload(self) -> None:
        """Come back, bit for bit."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Hugging Face names and whole tensors, one at a time, on every rank."""
        ...

    def stage(self, folder: Path) -> Staged:
        """Copy weights, optimizer and RNG of every rank, for writing them into an existing folder."""
        ...

    def load(self, folder: Path) -> None:
        """Read what was staged and written, at these or other parallel sizes."""
        ...


class Critic(Protocol):
    """The value model of PPO. All methods are collective: every rank calls them with equal arguments."""

    def values(self, samples: Sequence[TokenizedSample]) -> list[Tensor]:
        """float32 [response tokens] of each sample, on every rank: the value before each response token is drawn.

        In a micro-batch it stands at the position that predicts the token, as the token's log-prob does.
        """
        ...

    def train_step(self, samples: Sequence[TokenizedSample], loss: LossFunction, lr: float) -> StepResult:
        """As `Actor.train_step`; the loss function gets values_bt in place of log_probs_bt."""
        ...

    def offload(self) -> None:
        """As `Actor.offload`."""
        ...

    def onload(self) -> None:
        """As `Actor.onload`."""
        ...

    def stage(self, folder: Path) -> Staged:
        """As `Actor.stage`, beside the actor's files."""
        ...

    def load(self, folder: Path) -> None:
        """As `Actor.load`."""
        ...


def save(engine: Actor | Critic, folder: Path) -> None:
    """Write an engine's part of a checkpoint into an existing folder at once. Collective."""
    staged = engine.stage(folder)
    staged.write()
    staged.finish()
    torch.distributed.barrier()
