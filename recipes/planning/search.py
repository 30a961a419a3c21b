"""All layouts of a run on the same nodes, those that fit ranked by the seconds of a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from conf.plan import PlanConfig
from crossthink.errors import ConfigError
from recipes.actors.mcore.recompute import RECOMPUTE
from recipes.planning.gpus import CPU
from recipes.planning.interface import Job
from recipes.planning.job import make_job
from recipes.planning.memory import HOST, fit, memory
from recipes.planning.timing import estimate

MICRO_BATCH_TOKENS = (4096, 8192, 16384, 32768)
"""Micro-batches that are tried, beside the config's own."""


@dataclass(frozen=True)
class Layout:
    """One way to spread the run over its GPUs.

    Attributes:
        tensor: tensor-parallel ranks.
        pipeline: pipeline stages.
        data: data-parallel ranks.
        recompute: `actor.recompute`.
        micro_batch_tokens: as in the config.
        step_s: seconds of a step.
        memory_bytes: of the actor's fullest rank in its fullest phase.
        is_current: the config's own layout.
    """

    tensor: int
    pipeline: int
    data: int
    recompute: str
    micro_batch_tokens: int
    step_s: float
    memory_bytes: float
    is_current: bool


@dataclass(frozen=True)
class Ranking:
    """What a search found.

    Attributes:
        layouts: those that fit, the fastest first; of equally fast ones that with most memory left.
        tried: layouts, those that do not fit included.
        nearest: what the layout that misses by least lacks; None where one fits.
    """

    layouts: tuple[Layout, ...]
    tried: int
    nearest: str | None


def search(config: PlanConfig) -> Ranking:
    """Try TP × PP × DP × recompute × micro-batch layouts on the config's nodes.

    Raises:
        ConfigError: on CPUs, whose time is not planned, or where no layout can be built at all.
    """
    if config.gpu == CPU:
        raise ConfigError(f"search=true ranks layouts by their time, which gpu={CPU} has none of. Give gpu=h100 or so.")
    current = make_job(config)
    found, tried, nearest = [], 0, (float("inf"), "")
    for candidate in layouts(config, current):
        try:
            job = make_job(candidate)
        except ConfigError:  # a combination that this engine refuses
            continue
        tried += 1
        phases = memory(job)
        most = max(phase.total for phase in phases if phase.phase not in (HOST, "rollout_server"))
        if problems := fit(job, phases):
            nearest = min(nearest, (most, f"{_name(job)}: {problems[0]}"))
            continue
        actor = job.config.actor
        found.append(
            Layout(
                job.tensor,
                job.pipeline,
                job.data,
                actor.recompute,
                candidate.micro_batch_tokens,
                estimate(job, config.efficiency).step_s,
                most,
                _key(job) == _key(current),
            )
        )
    if not tried:
        raise ConfigError(
            f"No layout of {current.world} ranks can be built with actor={config.actor.name}. Change nodes.actor."
        )
    found.sort(key=lambda layout: (layout.step_s, layout.memory_bytes))
    return Ranking(tuple(found), tried, None if found else nearest[1])


def layouts(config: PlanConfig, current: Job) -> Iterator[PlanConfig]:
    """Configs of all layouts worth a try: TP within a node, pipeline stages of equally many layers."""
    shape, world, node = current.shape, current.world, current.gpus_per_node
    budgets = sorted({*MICRO_BATCH_TOKENS, config.micro_batch_tokens})
    for tensor in _divisors(node):
        if any(size % tensor for size in (shape.heads, shape.kv_heads, shape.mlp)):
            continue
        for pipeline in _divisors(shape.layers):
            if world % (tensor * pipeline):
                continue
            for recompute in RECOMPUTE:
                actor = replace(
                    config.actor,
                    tensor_parallel=tensor,
                    pipeline_parallel=pipeline,
                    pipeline_first_layers=None,
                    pipeline_last_layers=None,
                    data_parallel=None,
                    sequence_parallel=tensor > 1,
                    recompute=recompute,
                )
                yield from (replace(config, actor=actor, micro_batch_tokens=budget) for budget in budgets)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _key(job: Job) -> tuple[int, int, str, int]:
    return job.tensor, job.pipeline, job.config.actor.recompute, job.config.micro_batch_tokens


def _name(job: Job) -> str:
    return (
        f"TP {job.tensor} × PP {job.pipeline} × DP {job.data}, recompute={job.config.actor.recompute}, "
        f"micro_batch_tokens={job.config.micro_batch_tokens}"
    )
