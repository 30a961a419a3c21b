"""`crossthink eval`: greedy accuracy of a checkpoint on a pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.reward import RewardConfig
from conf.rollout import LocalRolloutConfig


@dataclass
class EvalConfig:
    """Answer every question of a pool once, greedily, and count what is right."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"rollout": "local"}])

    checkpoint: str = MISSING
    """A run folder (its newest checkpoint), one of its checkpoints, or a Hugging Face model folder."""
    data: str = MISSING
    """Pool folder made by prep from held-out rows."""
    out: str = MISSING
    """Folder for samples.jsonl and summary.json. It must not exist."""
    limit: int | None = None
    """Questions at most; null takes the whole pool."""
    max_prompt_tokens: int = 4000
    """Longer prompts are left out, and counted."""
    max_response_tokens: int = 4000
    """Responses are cut off here."""
    threads: int | None = None
    """CPU threads; null takes all cores."""
    rollout: LocalRolloutConfig = field(default_factory=LocalRolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
