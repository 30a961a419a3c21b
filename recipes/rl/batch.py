"""A rollout batch: what was asked, answered and judged in one step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from data_prep.rows import PoolRow
from recipes.actors.interface import TokenizedSample
from recipes.rl.advantages import useful_groups
from recipes.rollout.interface import FINISH_LENGTH, Response
from reward_server.verdicts import Verdict


@dataclass(frozen=True)
class Prompt:
    """A pool row with its rendered and tokenized prompt."""

    row: PoolRow
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """One response to one prompt, with its text and verdict."""

    prompt: Prompt
    number: int
    response: Response
    text: str
    verdict: Verdict

    @property
    def truncated(self) -> bool:
        """Whether the response was cut off at the length limit."""
        return self.response.finish_reason == FINISH_LENGTH

    def lag(self, step: int) -> int:
        """How many steps the weights that drew it are behind those that `step` begins with."""
        return step - 1 - self.response.weight_version

    def to_json(self, step: int) -> dict[str, Any]:
        """The line of `rollouts/step_NNNNNN.jsonl`."""
        row = self.prompt.row
        return {
            "step": step,
            "prompt_id": row.id,
            "sample": self.number,
            "source": row.source,
            "domain": row.domain,
            "kind": row.kind,
            "prompt": self.prompt.text,
            "response": self.text,
            "token_ids": self.response.token_ids,
            "log_probs": self.response.log_probs,
            "finish_reason": self.response.finish_reason,
            "weight_version": self.response.weight_version,
            "lag": self.lag(step),
            "ground_truth": row.ground_truth,
            "options": row.options,
            "verdict": self.verdict.to_json(),
        }


@dataclass(frozen=True)
class RolloutBatch:
    """All samples of a step, groups together: sample g of prompt p stands at p · group + g.

    `reference_log_probs` are float32 [response tokens] of each sample, where they were computed during generation.
    """

    samples: Sequence[Sample]
    group: int
    reference_log_probs: Sequence[Tensor] | None = None

    @property
    def rewards_pg(self) -> Tensor:
        """float32 [prompts, group]; 0 where there is no valid verdict."""
        return torch.tensor([s.verdict.reward or 0.0 for s in self.samples]).view(-1, self.group)

    @property
    def valid_pg(self) -> Tensor:
        """bool [prompts, group]: the verdict is neither bad_gold nor error."""
        return torch.tensor([s.verdict.is_valid for s in self.samples]).view(-1, self.group)

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Prompt and response tokens of each sample."""
        return [(len(s.prompt.token_ids), len(s.response.token_ids)) for s in self.samples]

    def parts(self, count: int) -> Iterator[RolloutBatch]:
        """`count` equal parts, cut between prompts."""
        size = len(self.samples) // count
        for start in range(0, len(self.samples), size):
            yield RolloutBatch(self.samples[start : start + size], self.group)

    def tokenized(self) -> list[TokenizedSample]:
        """Every sample as the actor wants it, with the rollout's own log-probs."""
        return [
            TokenizedSample(
                token_ids=[*s.prompt.token_ids, *s.response.token_ids],
                prompt_length=len(s.prompt.token_ids),
                per_token={"rollout_log_probs": torch.tensor(s.response.log_probs)},
            )
            for s in self.samples
        ]

    def metrics(self) -> dict[str, float]:
        """Means over valid verdicts; invalid ones only as a share."""
        valid = [s for s in self.samples if s.verdict.is_valid]
        count = max(1, len(valid))
        lengths = [len(s.response.token_ids) for s in self.samples]
        return {
            "reward": sum(s.verdict.reward or 0.0 for s in valid) / count,
            "accuracy": sum(s.verdict.accuracy or 0 for s in valid) / count,
            "format": sum(s.verdict.format for s in valid) / count,
            "response_tokens": sum(lengths) / len(lengths),
            "truncated": sum(s.truncated for s in self.samples) / len(lengths),
            "zero_variance_groups": int((~useful_groups(self.rewards_pg, self.valid_pg)).sum()),
            "invalid": 1 - len(valid) / len(self.samples),
        }


def with_per_token(samples: Sequence[TokenizedSample], **values: Sequence[Tensor]) -> list[TokenizedSample]:
    """The samples with more per-token tensors: of each name one float tensor [response tokens] a sample."""
    return [
        replace(sample, per_token={**sample.per_token, **dict(zip(values, mine, strict=True))})
        for sample, *mine in zip(samples, *values.values(), strict=True)
    ]
