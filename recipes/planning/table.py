"""A plan as text for people, and as JSON for programs."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from conf.plan import EfficiencyConfig
from recipes.planning.gpus import GB
from recipes.planning.interface import KNOWN, Item, Job, PhaseMemory, Traffic
from recipes.planning.memory import HOST
from recipes.planning.search import Layout, Ranking
from recipes.planning.timing import Estimate, seconds

WIDTH = 118
NO_TIME = "gpu=cpu: memory alone is planned. A CPU's speed is not known well enough to plan its time."
SOURCES = (
    "from: formula, exact; measured, by a command of benchmarks/; published, by others; assumed, on efficiency.* or\n"
    "a constant in the code. efficiency.* was chosen on published step times: docs/plan.md says how well they agree."
)


def memory_table(job: Job, phases: Sequence[PhaseMemory]) -> str:
    """A grid of items by phase for each pipeline stage, GB of a rank; stages that are alike stand together."""
    grids: dict[tuple[PhaseMemory, ...], list[int]] = {}
    for stage in range(job.pipeline):
        grid = tuple(dataclasses.replace(one, stage=0) for one in phases if one.stage == stage)
        grids.setdefault(grid, []).append(stage)
    return "\n".join(_memory_grid(job, grid, _stages(stages, job.pipeline)) for grid, stages in grids.items())


def time_table(found: Estimate) -> str:
    """Seconds of a step by phase and part."""
    table = _table(("phase", "part", "s", "from", "note"), right=(2,))
    for phase in found.phases:
        table.add_row(phase.phase, "", f"{phase.total:.2f}", _least_known(phase.items), f"on the {phase.on}'s GPUs")
        for item in phase.items:
            table.add_row("", item.name, f"{item.amount:.2f}", item.known, item.note)
        table.add_section()
    return _text(table, "time of a step")


def traffic_table(job: Job, moved: Sequence[Traffic], efficiency: EfficiencyConfig) -> str:
    """What the rank that sends most sends in a step, and over which link."""
    if not moved:
        return "Communication: none, each rank is alone.\n"
    columns = ("communication of a step", "group", "link", "GB sent by a rank", "from", "s", "from")
    table = _table(columns, right=(3, 5))
    for one in moved:
        spent = f"{seconds(job, one, efficiency):.2f}" if job.gpu else "-"
        table.add_row(one.what, one.group, one.link, f"{one.bytes / GB:.2f}", "formula", spent, "assumed")
    return _text(table)


def totals_table(job: Job, found: Estimate) -> str:
    """Step, run, tokens/s, MFU, GPU-hours."""
    config = job.config
    table = _table(("total", "", "from", "note"), right=(1,))
    note = "the longer of rollout side and training side, and the refit" if config.rollout.lag else "the phases' sum"
    rows = [
        ("step", f"{found.step_s:.1f} s", "assumed", note),
        ("run", f"{found.run_hours:.1f} h", "assumed", f"{config.steps} steps, no evaluations, checkpoints or starts"),
        ("GPU-hours", f"{found.gpu_hours:,.0f}", "assumed", f"{found.gpus} GPUs"),
        ("tokens a step", f"{found.tokens:,}", "formula", f"prompt {job.prompt} and response {job.response}: assumed"),
        ("tokens/s", f"{found.tokens_per_second:,.0f}", "assumed", "prompt and response tokens, as in metrics.jsonl"),
        ("tokens/s a GPU", f"{found.tokens_per_second_per_gpu:,.0f}", "assumed", "of all GPUs"),
        ("MFU of train", f"{found.mfu:.1%}", "assumed", "model FLOPs, without recomputation; as mfu in metrics.jsonl"),
        ("micro-batches", str(found.micro_batches), "formula", "of an optimizer step and data-parallel rank"),
    ]
    if config.rollout.lag:
        who = "rollout nodes wait" if found.idle_s > 0 else "the actor waits"
        rows.append(("idle", f"{abs(found.idle_s):.1f} s", "assumed", f"of each step, in which {who}"))
    for row in rows:
        table.add_row(*row)
    return _text(table)


def layout_line(job: Job) -> str:
    """What is planned, in two lines."""
    actor, where = job.config.actor, f"gpu={job.gpu.name}" if job.gpu else "gpu=cpu"
    formats = actor.dtype if actor.fp8 == "off" else f"{actor.dtype}, FP8 {actor.fp8}"
    if job.rollout_gpus:
        rollouts = f"{job.rollout_gpus} GPUs of their own"
    elif not job.served:
        rollouts = "the actor's ranks"
    else:
        rollouts = f"{job.servers} servers " + ("on the actor's GPUs" if job.servers_share_gpus else "of rollout.url")
    return (
        f"{job.world} ranks ({where}): {job.tensor} tensor × {job.pipeline} pipeline × {job.data} data; actor="
        f"{actor.name}, {formats}, recompute={actor.recompute}\n"
        f"rollout={job.config.rollout.name} on {rollouts}; {job.config.prompts_per_step} prompts × "
        f"{job.config.samples_per_prompt} samples, {job.prompt} + {job.response} tokens in the mean"
    )


def ranking_table(ranking: Ranking, show: int) -> str:
    """The fastest layouts, and the config's own where it fits."""
    columns = ("TP", "PP", "DP", "recompute", "micro_batch_tokens", "step s", "fullest rank, GB", "")
    table = _table(columns, right=(0, 1, 2, 4, 5, 6))
    for one in (*ranking.layouts[:show], *(one for one in ranking.layouts[show:] if one.is_current)):
        table.add_row(
            *map(str, (one.tensor, one.pipeline, one.data, one.recompute, one.micro_batch_tokens)),
            f"{one.step_s:.1f}",
            f"{one.memory_bytes / GB:.1f}",
            "as configured" if one.is_current else "",
        )
    return _text(table, f"{len(ranking.layouts)} of {ranking.tried} layouts fit")


def layout_words(one: Layout) -> str:
    """The overrides that give a layout."""
    return (
        f"actor.tensor_parallel={one.tensor} actor.pipeline_parallel={one.pipeline} actor.sequence_parallel="
        f"{str(one.tensor > 1).lower()} actor.recompute={one.recompute} micro_batch_tokens={one.micro_batch_tokens}"
    )


def as_json(
    job: Job,
    phases: Sequence[PhaseMemory],
    problems: Sequence[str],
    found: Estimate | None,
    moved: Sequence[Traffic],
    efficiency: EfficiencyConfig,
) -> dict[str, Any]:
    """Everything that the tables show; bytes, seconds and counts without rounding."""
    return {
        "fits": not problems,
        "problems": list(problems),
        "gpu": job.gpu.name if job.gpu else "cpu",
        "limit_bytes": job.gpu.memory_bytes if job.gpu else None,
        "layout": {
            "world": job.world,
            "rollout_gpus": job.rollout_gpus,
            "tensor_parallel": job.tensor,
            "pipeline_parallel": job.pipeline,
            "data_parallel": job.data,
        },
        "actor": dataclasses.asdict(job.config.actor),
        "memory": [
            {
                "phase": one.phase,
                "stage": one.stage,
                "where": "host" if one.phase == HOST else "device",
                "bytes": one.total,
                "items": [_item(item, "bytes") for item in one.items],
            }
            for one in phases
        ],
        "time": None if found is None else _time_json(found),
        "traffic": [
            {**dataclasses.asdict(one), "seconds": seconds(job, one, efficiency) if job.gpu else None} for one in moved
        ],
        "efficiency": dataclasses.asdict(efficiency),
    }


def ranking_json(ranking: Ranking, show: int) -> dict[str, Any]:
    """The ranking; see `Ranking`."""
    return {
        "tried": ranking.tried,
        "fit": len(ranking.layouts),
        "nearest": ranking.nearest,
        "layouts": [{**dataclasses.asdict(one), "words": layout_words(one)} for one in ranking.layouts[:show]],
    }


def _time_json(found: Estimate) -> dict[str, Any]:
    totals = {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "phases"}
    return {
        **totals,
        "tokens_per_second_per_gpu": found.tokens_per_second_per_gpu,
        "phases": [
            {
                "phase": phase.phase,
                "on": phase.on,
                "seconds": phase.total,
                "items": [_item(item, "seconds") for item in phase.items],
            }
            for phase in found.phases
        ],
    }


def _item(item: Item, unit: str) -> dict[str, Any]:
    return {"name": item.name, unit: item.amount, "from": item.known, "note": item.note}


def _memory_grid(job: Job, grid: Sequence[PhaseMemory], stages: str) -> str:
    names = list(dict.fromkeys(item.name for one in grid for item in one.items))
    heads = [f"{one.phase} (host)" if one.phase == HOST else one.phase for one in grid]
    table = _table(("", *heads, "from"), right=tuple(range(1, len(grid) + 1)))
    for name in names:
        found = [[item for item in one.items if item.name == name] for one in grid]
        amounts = [f"{sum(item.amount for item in items) / GB:.2f}" if items else "" for items in found]
        table.add_row(name, *amounts, _least_known([item for items in found for item in items]))
    table.add_section()
    table.add_row("total", *(f"{one.total / GB:.2f}" for one in grid), "")
    if job.gpu is not None:
        limit = job.gpu.memory_bytes
        left = ["" if one.phase == HOST else f"{(limit - one.total) / GB:.2f}" for one in grid]
        table.add_row(f"left of {limit / GB:.1f}", *left, "published")
    return _text(table, f"memory of a rank, GB{stages}")


def _stages(stages: Sequence[int], pipeline: int) -> str:
    if pipeline == 1:
        return ""
    return f", stage{'s' * (len(stages) > 1)} {', '.join(map(str, stages))} of {pipeline}"


def _least_known(items: Sequence[Item]) -> str:
    """A sum is as well known as its least known part."""
    return max((item.known for item in items), key=KNOWN.index, default=KNOWN[0])


def _table(columns: Sequence[str], right: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place in right else "left", no_wrap=place in right)
    return table


def _text(table: Table, title: str = "") -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=WIDTH).print(table)
    return "".join(f"{line.rstrip()}\n" for line in [*([title] if title else []), *buffer.getvalue().splitlines()])
