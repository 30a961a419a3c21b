"""How long forward and backward passes over a batch take on the actor's ranks: products, pipeline, small micro-batches.

All data-parallel ranks carry the same tokens (`recipes.actors.packing.shares` deals samples by length), so one of them
stands for all. Its slowest pipeline stage sets the pace: m micro-batches through p stages take as long as m + p - 1 of
that stage's (1F1B; Narayanan et al. 2021, section 2.2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from conf.plan import EfficiencyConfig
from recipes.models import flops
from recipes.models.families import ModelShape
from recipes.planning.generation import product_speed
from recipes.planning.interface import Job
from recipes.planning.job import stage_layers
from recipes.planning.lengths import response_lengths

HALF_SPEED_ROWS = 256
"""Rows of a rank's matrix products at which they run at half their speed. [assumed]

Speed goes as rows / (rows + this); a tensor-parallel rank of n has products of 1 / n of the size, which counts as so
many fewer rows. Tiles that are not full and kernel launches are behind it.
"""


@dataclass(frozen=True)
class Work:
    """FLOPs of one forward pass over a batch, by where they are spent.

    Attributes:
        linear: projections and MLPs of all layers; FP8 where the run has it.
        attention: scores and values.
        head: logits of the response tokens.
    """

    linear: int
    attention: int
    head: int

    @property
    def all(self) -> int:
        """FLOPs altogether."""
        return self.linear + self.attention + self.head


@dataclass(frozen=True)
class PassTime:
    """Seconds of passes over a batch on one rank.

    Attributes:
        busy: the slowest stage computes, all micro-batches together.
        bubble: it waits for the pipeline to fill and to drain.
        micro_batches: of one optimizer step, or of one pass.
    """

    busy: float
    bubble: float
    micro_batches: int


def work_of(job: Job) -> Work:
    """The forward pass over a step's whole batch."""
    config = job.config
    samples = config.prompts_per_step * config.samples_per_prompt
    return _work(job.shape, job.prompt, job.response, config.length_spread, config.max_response_tokens, samples)


def micro_batches(job: Job, parts: int) -> int:
    """Micro-batches that a data-parallel rank makes of one of `parts` equal parts of the batch, all of them full."""
    config = job.config
    samples = config.prompts_per_step * config.samples_per_prompt / parts / job.data
    tokens = samples * (job.prompt + job.response)
    return max(1, math.ceil(tokens / config.micro_batch_tokens))


def fill(job: Job, parts: int) -> float:
    """What share of its speed a rank's matrix products reach at the micro-batches' size."""
    config = job.config
    tokens = config.prompts_per_step * config.samples_per_prompt * (job.prompt + job.response) / parts / job.data
    rows = tokens / micro_batches(job, parts) / job.tensor
    return rows / (rows + HALF_SPEED_ROWS)


def pass_time(
    job: Job,
    share: float,
    efficiency: EfficiencyConfig,
    *,
    body: float = 1.0,
    attention: float = 0.0,
    head: float = 1.0,
    parts: int = 1,
    fp8: bool = True,
) -> PassTime:
    """Seconds of passes over the whole batch.

    Args:
        job: what is planned.
        share: of the peak that full products reach.
        efficiency: for FP8.
        body: forward passes' worth of the layers; a backward pass is worth two.
        attention: the same, of attention alone, on top of `body`.
        head: the same, of the head.
        parts: optimizer steps that the batch is cut into, each with a pipeline that fills and drains.
        fp8: the passes compute in FP8 where the run does.
    """
    assert job.gpu is not None
    work, actor = work_of(job), job.config.actor
    plain = product_speed(job.gpu, job.dtype, share, efficiency)
    in_fp8 = 1 - 2 * actor.fp8_bf16_layers / job.shape.layers if fp8 and actor.fp8 != "off" else 0.0
    per_flop = 1 / plain
    if in_fp8:
        per_flop = in_fp8 / product_speed(job.gpu, "fp8", share, efficiency) + (1 - in_fp8) / plain
    layers_s = body * work.linear * per_flop + (body + attention) * work.attention / plain
    head_s = head * work.head / plain
    counts = stage_layers(job)
    stages = [layers_s * count / job.shape.layers for count in counts]
    stages[-1] += head_s
    batches = micro_batches(job, parts)
    busy = max(stages) / (job.data * job.tensor) / fill(job, parts)
    return PassTime(busy, busy * bubble_share(job.pipeline, batches), batches)


def bubble_share(stages: int, batches: int) -> float:
    """Seconds that a stage waits, per second that it computes: (p - 1) / m."""
    return (stages - 1) / batches


@lru_cache(maxsize=64)
def _work(shape: ModelShape, prompt: int, mean: int, spread: float, longest: int, samples: int) -> Work:
    positions = [prompt + length - 1 for length in response_lengths(mean, spread, longest, samples)]
    attention = sum(flops.attention_flops(shape, flops.causal_pairs(count)) for count in positions)
    linear = flops.body_flops(shape, sum(positions), 0)
    return Work(linear, attention, flops.head_flops(shape, sum(positions) - samples * (prompt - 1)))
