"""Seconds of a step by phase, and what follows from them: hours, tokens/s, MFU, GPU-hours."""

from __future__ import annotations

from dataclasses import dataclass

from conf.plan import EfficiencyConfig
from recipes.planning.communication import bandwidth, log_prob_passes, most_parameters, traffic, weight_bytes
from recipes.planning.generation import rollout_time
from recipes.planning.gpus import host_seconds, peak_flops
from recipes.planning.interface import Item, Job, PhaseTime, Traffic
from recipes.planning.passes import PassTime, pass_time, work_of
from recipes.planning.weights import BYTES, FLOAT32, MOMENTS, adam_elements, master_bytes, stage_parameters

VERDICTS_PER_SECOND = 12_237
"""Of the run's own reward server on 2 cores. [measured: benchmarks/reward_server.py, an earlier run]"""

RECOMPUTED = {"none": (0, 0), "selective": (0, 1), "full": (1, 0)}
"""Forward passes of all layers, and of attention alone, that `actor.recompute` adds."""

PARTS = 4
"""Parts in which the reference's log-probs follow the rollout: PARTS_AHEAD of recipes/rl/step.py, which needs torch."""


@dataclass(frozen=True)
class Estimate:
    """What a step, and the run, take.

    Attributes:
        phases: of a step; where one runs beside another, `step_s` is less than their sum.
        step_s: seconds of a step.
        idle_s: seconds of it in which rollout nodes wait for the actor, or with a minus the actor for them; lag=1 only.
        run_hours: of all steps, without evaluations, checkpoints and starts.
        gpu_hours: the same times all GPUs.
        gpus: of actor and rollout nodes.
        tokens: prompt and response tokens of a step.
        tokens_per_second: as a whole.
        mfu: model FLOPs of the train phase over the actor's peak, as `mfu` in metrics.jsonl.
        micro_batches: of an optimizer step.
    """

    phases: tuple[PhaseTime, ...]
    step_s: float
    idle_s: float
    run_hours: float
    gpu_hours: float
    gpus: int
    tokens: int
    tokens_per_second: float
    mfu: float
    micro_batches: int

    @property
    def tokens_per_second_per_gpu(self) -> float:
        """Over actor and rollout GPUs."""
        return self.tokens_per_second / self.gpus


def estimate(job: Job, efficiency: EfficiencyConfig) -> Estimate:
    """Plan the time of a job on GPUs.

    Raises:
        ConfigError: the GPU lacks a number format, or rollouts lack GPUs.
    """
    assert job.gpu is not None
    config = job.config
    phases = times(job, efficiency)
    by_name = {phase.phase: phase.total for phase in phases}
    step_s, idle_s = step_seconds(by_name, config.rollout.lag)
    samples = config.prompts_per_step * config.samples_per_prompt
    gpus, tokens = job.world + job.rollout_gpus, samples * (job.prompt + job.response)
    hours = step_s * config.steps / 3600
    peak = peak_flops(job.gpu, "fp8" if config.actor.fp8 != "off" else job.dtype)
    models = 2 if config.algorithm.name == "ppo" else 1
    trained = 3 * (work_of(job).all * models - (models - 1) * work_of(job).head)
    return Estimate(
        phases=phases,
        step_s=step_s,
        idle_s=idle_s,
        run_hours=hours,
        gpu_hours=hours * gpus,
        gpus=gpus,
        tokens=tokens,
        tokens_per_second=tokens / step_s,
        mfu=trained / by_name["train"] / job.world / peak,
        micro_batches=train_passes(job, efficiency).micro_batches,
    )


def times(job: Job, efficiency: EfficiencyConfig) -> tuple[PhaseTime, ...]:
    """The phases of a step in their order. See `recipes.rl.step`."""
    rollout = rollout_time(job, efficiency)
    moves = {(one.what, one.group): seconds(job, one, efficiency) for one in traffic(job)}
    log_probs = _log_probs(job, efficiency, moves, rollout.total)
    samples = job.config.prompts_per_step * job.config.samples_per_prompt
    verdicts = Item("verdicts", samples / VERDICTS_PER_SECOND, "measured", "a reward server on 2 cores")
    found = [_with_offload(job, rollout, efficiency), PhaseTime("reward", (verdicts,), rollout.on)]
    if log_probs.items:
        found.append(log_probs)
    if job.config.algorithm.name == "ppo":
        values = pass_time(job, efficiency.log_probs, efficiency, head=0.0)
        found.append(PhaseTime("values", _computed(values, "critic: forward passes", "log_probs")))
    found.append(_train(job, efficiency, moves))
    found.append(_refit(job, efficiency, moves))
    return tuple(found)


def step_seconds(by_phase: dict[str, float], lag: int) -> tuple[float, float]:
    """Seconds of a step, and of the wait of rollout nodes in it (with a minus: of the actor).

    At lag 1 the next batch is generated and judged while this one trains; the refit has both sides wait.

    Args:
        by_phase: seconds of each phase.
        lag: `rollout.lag`.
    """
    if not lag:
        return sum(by_phase.values()), 0.0
    generating = by_phase["rollout"] + by_phase["reward"]
    training = sum(by_phase.values()) - generating - by_phase["refit"]
    return max(generating, training) + by_phase["refit"], training - generating


def seconds(job: Job, one: Traffic, efficiency: EfficiencyConfig) -> float:
    """How long its bytes take on the group's link."""
    return one.bytes / (bandwidth(job, one.group) * efficiency.network)


def train_passes(job: Job, efficiency: EfficiencyConfig, head: float = 4.0) -> PassTime:
    """Forward, backward and recomputed passes.

    Args:
        job: what is planned.
        efficiency: shares of the peaks.
        head: forward passes' worth of the head. The policy's is always computed a second time; a critic has none.
    """
    layers, attention = RECOMPUTED[job.config.actor.recompute]
    return pass_time(
        job,
        efficiency.train,
        efficiency,
        body=3 + layers,
        attention=attention,
        head=head,
        parts=job.config.updates_per_rollout,
    )


def _train(job: Job, efficiency: EfficiencyConfig, moves: dict[tuple[str, str], float]) -> PhaseTime:
    actor, updates = job.config.actor, job.config.updates_per_rollout
    passes = train_passes(job, efficiency)
    useful = pass_time(job, efficiency.train, efficiency, body=3, head=3, parts=updates)
    items = [
        Item("forward, backward", useful.busy, "assumed", "efficiency.train"),
        Item("recomputation", passes.busy - useful.busy, "assumed", f"actor.recompute={actor.recompute}, and the head"),
        *_bubble(job, passes),
    ]
    if job.config.algorithm.name == "ppo":
        critic = train_passes(job, efficiency, head=0.0)
        items += _computed(critic, "critic: forward, backward, recomputation", "train")
    items += _communicated(job, "train", ("TP", "PP"), moves)
    # One micro-batch's passes hide what is reduced beside its backward pass and gathered beside its forward pass.
    beside = (passes.busy + passes.bubble) / passes.micro_batches if actor.overlap else 0.0
    for what, share in (("gradients", 2 / 3), ("weights", 1 / 3)):
        if (whole := moves.get((f"train: {what}", "DP"))) is not None:
            note = f"{whole:.2f} s, of which the passes hide the rest" if beside else ""
            items.append(Item(f"DP: {what}", max(0.0, whole - beside * share), "assumed", note))
    items.append(Item("Adam", adam_seconds(job, efficiency), "assumed", "bytes of its state, efficiency.decode"))
    if job.makes_room:
        items.append(_host_item(job, "Adam's state from host memory", _adam_bytes(job), efficiency))
    return PhaseTime("train", tuple(items))


def adam_seconds(job: Job, efficiency: EfficiencyConfig) -> float:
    """Adam's steps: every float32 of its state is read and written, the gradient read, the weight written."""
    assert job.gpu is not None
    element = 2 * FLOAT32 * (MOMENTS + 1) + FLOAT32 + BYTES[job.dtype]
    elements = max(adam_elements(job, stage_parameters(job, stage)) for stage in range(job.pipeline))
    return job.config.updates_per_rollout * elements * element / (job.gpu.bandwidth * efficiency.decode)


def _log_probs(
    job: Job, efficiency: EfficiencyConfig, moves: dict[tuple[str, str], float], rollout_s: float
) -> PhaseTime:
    count = log_prob_passes(job)
    if not count:
        return PhaseTime("log_probs", ())
    one = pass_time(job, efficiency.log_probs, efficiency, fp8=job.config.actor.fp8_log_probs)
    items = [Item("forward passes", count * one.busy, "assumed", f"{count} of them; efficiency.log_probs")]
    items += [Item(item.name, count * item.amount, item.known, item.note) for item in _bubble(job, one)]
    items += _communicated(job, "log_probs", ("TP", "PP"), moves)
    if job.config.actor.reference == "offload" and job.config.algorithm.kl > 0:
        # Own weights and the reference's change places before and after the pass: recipes/actors/megatron/offload.py
        held = most_parameters(job) * BYTES[job.dtype]
        items.append(_host_item(job, "reference's weights from host memory", 4 * held, efficiency))
    if job.config.rollout.overlap_log_probs:
        whole = sum(item.amount for item in items) / count
        hidden = min(whole * (PARTS - 1) / PARTS, rollout_s)
        items.append(Item("beside the rollout", -hidden, "formula", "rollout.overlap_log_probs"))
    return PhaseTime("log_probs", tuple(items))


def _refit(job: Job, efficiency: EfficiencyConfig, moves: dict[tuple[str, str], float]) -> PhaseTime:
    """Tensors stream: gathered over TP, stage by stage; broadcast over PP; sent while the next one is gathered."""
    gather = job.pipeline * moves.get(("refit: gather", "TP"), 0.0)
    broadcast = moves.get(("refit: broadcast", "PP"), 0.0)
    sent = moves.get(("refit: to rollout servers", "refit"), 0.0)
    items = []
    if gather or broadcast:
        items.append(Item("gather over TP, broadcast over PP", gather + broadcast, "assumed", "efficiency.network"))
    if sent:
        note = "beside the gather; what is left of it"
        items.append(Item("to rollout servers", max(0.0, sent - gather - broadcast), "assumed", note))
    if not items:
        assert job.gpu is not None
        copied = 2 * weight_bytes(job) / (job.gpu.bandwidth * efficiency.decode)
        items.append(Item("copy on the device", copied, "assumed", "efficiency.decode"))
    return PhaseTime("refit", tuple(items))


def _with_offload(job: Job, rollout: PhaseTime, efficiency: EfficiencyConfig) -> PhaseTime:
    if not job.makes_room:
        return rollout
    away = _host_item(job, "Adam's state to host memory", _adam_bytes(job), efficiency)
    return PhaseTime(rollout.phase, (*rollout.items, away), rollout.on)


def _adam_bytes(job: Job) -> float:
    element = MOMENTS * FLOAT32 + master_bytes(job)
    return element * max(adam_elements(job, stage_parameters(job, stage)) for stage in range(job.pipeline))


def _host_item(job: Job, name: str, size: float, efficiency: EfficiencyConfig) -> Item:
    assert job.gpu is not None
    return Item(name, host_seconds(job.gpu, size, efficiency.network), "assumed", "PCIe, efficiency.network")


def _communicated(job: Job, phase: str, groups: tuple[str, ...], moves: dict[tuple[str, str], float]) -> list[Item]:
    """What tensor- and pipeline-parallel ranks wait for: none of it runs beside the passes."""
    return [
        Item(what.replace(f"{phase}:", f"{group}:"), spent, "assumed", "efficiency.network")
        for (what, group), spent in moves.items()
        if group in groups and what.startswith(f"{phase}:")
    ]


def _computed(passes: PassTime, name: str, key: str) -> tuple[Item, ...]:
    return (Item(name, passes.busy + passes.bubble, "assumed", f"efficiency.{key}"),)


def _bubble(job: Job, passes: PassTime) -> list[Item]:
    if job.pipeline == 1:
        return []
    note = f"({job.pipeline} - 1) / {passes.micro_batches} micro-batches"
    return [Item("pipeline bubble", passes.bubble, "formula", note)]
