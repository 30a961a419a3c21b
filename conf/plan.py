"""`crossthink plan`: memory, time and layout of a run before it is submitted."""

from __future__ import annotations

from dataclasses import dataclass, field

from conf.train import TrainConfig


@dataclass
class EfficiencyConfig:
    """What share of the hardware's peak a phase reaches. Chosen so that published steps come out (docs/plan.md)."""

    train: float = 0.50
    """Of the peak FLOP/s in forward and backward passes, of rows that fill the GPU."""
    log_probs: float = 0.55
    """Of the peak FLOP/s in log-prob passes."""
    prefill: float = 0.50
    """Of the peak FLOP/s when prompts are read."""
    decode: float = 0.60
    """Of the memory bandwidth when tokens are drawn."""
    decode_overhead_ms: float = 5.0
    """Milliseconds of every decode step beside the model's own work: scheduling, sampling, kernel launches."""
    fp8: float = 0.65
    """FP8 products reach this share of what train, log_probs or prefill makes of the FP8 peak: casts and scales."""
    network: float = 0.70
    """Of a link's bandwidth in collectives."""


@dataclass
class PlanConfig(TrainConfig):
    """What a run takes before it is submitted: memory by rank and phase, time, communication. Starts nothing.

    Takes all keys of `train`; exits with 1 where the layout does not fit, naming by how much and what to change.
    """

    out: str = "runs/plan"
    """Not used: nothing is written but picture=."""
    gpu: str = "h100"
    """GPU of the nodes: a100, h100, h200, b200, or cpu (memory alone)."""
    mean_prompt_tokens: int = 300
    """Prompt tokens of a mean sample. [assumed]"""
    mean_response_tokens: int = 700
    """Response tokens of a mean sample: the mean of the paper's runs, about. [assumed]"""
    length_spread: float = 0.8
    """Standard deviation of the logarithm of response lengths: the long tail that a step waits for. [assumed]"""
    search: bool = False
    """Rank TP × PP × DP × recompute × micro-batch layouts on these nodes."""
    show: int = 10
    """Layouts that search=true shows."""
    picture: str | None = None
    """Where to write the bars of memory and time, a PNG or SVG file."""
    json: bool = False
    """Print JSON."""
    efficiency: EfficiencyConfig = field(default_factory=EfficiencyConfig)
