"""`crossthink difficulty`: the questions that a smaller model already solves, marked and left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.evaluate import EvalConfig, RequestConfig
from conf.reward import RewardConfig
from conf.rollout import LocalRolloutConfig

KEEPS = ("unsolved", "range")


@dataclass
class DifficultyConfig:
    """Ask a pool's questions of a smaller model, mark each with its pass rate, and write the pool of what is left."""

    defaults: list[Any] = field(default_factory=lambda: ["_self_", {"rollout": "local"}])

    data: str = MISSING
    """Pool folder made by prep."""
    out: str = MISSING
    """Folder for the answers, marks.parquet, pass_rates.svg and the filtered pool, out/pool."""
    checkpoint: str | None = None
    """The smaller model: a run folder, one of its checkpoints, or a Hugging Face model folder. Or give endpoint=."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server of the smaller model. Or give checkpoint=."""
    request: RequestConfig = field(default_factory=RequestConfig)
    domains: list[str] = field(default_factory=lambda: ["gpr"])
    """Domains whose questions are asked: gpr, math. Rows of the others stay, unmarked. [reported: GPR]"""
    samples: int = 1
    """Answers to each question; 1 is greedy, more are drawn at temperature. [ours: the paper does not say]"""
    temperature: float = 1.0
    """Softmax temperature of more than one sample. [ours]"""
    top_p: float = EvalConfig.top_p
    """Of more than one sample: draw from the likeliest tokens that reach this share."""
    keep: str = "unsolved"
    """What stays of the rows that were asked: unsolved (no answer right), or range (pass rate within keep_range)."""
    keep_range: list[float] = field(default_factory=lambda: [0.0, 0.5])
    """[low, high]: pass rates that stay under keep=range, both ends included. [ours]"""
    max_prompt_tokens: int = EvalConfig.max_prompt_tokens
    """Rows with longer prompts are not asked; they stay, and are counted."""
    max_response_tokens: int = EvalConfig.max_response_tokens
    """Responses are cut off here. [ours]"""
    seed: int = EvalConfig.seed
    """Of the draws where samples is above 1."""
    threads: int | None = None
    """CPU threads of the local engine; null: all cores."""
    rollout: LocalRolloutConfig = field(default_factory=LocalRolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    resume: bool = False
    """Go on with what was stopped in out."""
