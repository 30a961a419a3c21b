"""The seconds that a simulation starts from: by formula from shape and peaks, and what is assumed or was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from conf.plan import EfficiencyConfig
from conf.rollout import TrtllmConfig
from recipes.models import flops
from recipes.models.families import ModelShape
from recipes.planning.communication import COLLECTIVE_LATENCY_S, ring
from recipes.planning.gpus import HOST_LINK, peak_flops
from recipes.planning.interface import Gpu
from recipes.planning.parameters import all_parameters
from recipes.planning.passes import HALF_SPEED_ROWS
from recipes.planning.simulation import ActorSpeed, SamplePass, Setup, Stragglers
from recipes.planning.simulation_events import ReplicaSpeed
from recipes.planning.timing import VERDICTS_PER_SECOND

BFLOAT16, FLOAT32 = 2, 4
# Bytes of a parameter that colocated ranks move to host memory and back: float32 weights and Adam's two moments.
OPTIMIZER = 3 * FLOAT32


@dataclass(frozen=True)
class Assumed:
    """What no formula gives. `measured` figures are of `benchmarks/scale_checked.py`, the others are assumed.

    Attributes:
        efficiency: shares of the peaks; assumed, see docs/plan.md.
        engine: slots and share of the memory for the KV cache, as TensorRT-LLM is started.
        all_reduce_s: start of one all-reduce of a decode step among tensor-parallel GPUs.
        bucket: parameters of one message among data-parallel ranks: megatron-core's smallest bucket.
        hop_s: from a rank to the next in a ring.
        server_s: seconds of a refit for each server: its offer and its reply, in one Python process.
        intake_s: seconds a sample of the trainer's client: measured.
        verdict_s: seconds a verdict of one reward server: measured on 2 cores, docs/rewards.md.
        spread_s: seconds a sample of a batch on its way to every rank, and of reading it there: measured.
        slow_replicas: rollout replicas that are slow for a step.
        slow_ranks: GPUs of the actor that are.
    """

    efficiency: EfficiencyConfig = field(default_factory=EfficiencyConfig)
    engine: TrtllmConfig = field(default_factory=TrtllmConfig)
    all_reduce_s: float = COLLECTIVE_LATENCY_S
    bucket: float = 40e6
    hop_s: float = 5e-6
    server_s: float = 2e-3
    intake_s: float = 0.5e-3
    verdict_s: float = 1 / VERDICTS_PER_SECOND
    spread_s: float = 2.0e-3
    slow_replicas: Stragglers = Stragglers(0.01, 1.5)
    slow_ranks: Stragglers = Stragglers(1e-4, 1.2)


@dataclass(frozen=True)
class Layout:
    """GPUs, and how they are shared.

    Attributes:
        actor: GPUs of the actor.
        rollout: GPUs of rollout servers alone; 0: colocated, the servers are on the actor's GPUs.
        tensor: tensor-parallel GPUs of the actor.
        pipeline: its pipeline stages.
        engine: GPUs of one rollout replica.
        gpus_per_node: of a node; links within it are faster.
    """

    actor: int
    rollout: int
    tensor: int
    pipeline: int
    engine: int
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        if self.actor < 1 or self.actor % (self.tensor * self.pipeline) or (self.rollout or self.actor) % self.engine:
            raise ValueError(
                f"layout: {self.actor} actor GPUs do not make whole models of {self.tensor} × {self.pipeline}, or "
                f"{self.rollout or self.actor} rollout GPUs no whole replicas of {self.engine}"
            )

    @property
    def gpus(self) -> int:
        return self.actor + self.rollout

    @property
    def data(self) -> int:
        return self.actor // (self.tensor * self.pipeline)

    @property
    def replicas(self) -> int:
        return (self.rollout or self.actor) // self.engine


def make_setup(
    shape: ModelShape,
    gpu: Gpu,
    layout: Layout,
    lag: int,
    prompt: int,
    longest: int,
    micro_batch_tokens: int,
    recompute: str,
    assumed: Assumed,
) -> Setup:
    """What `simulate` takes, for bfloat16 weights.

    Args:
        shape: the model's.
        gpu: all of them.
        layout: where what runs.
        lag: `rollout.lag`.
        prompt: tokens of every prompt.
        longest: `max_response_tokens`.
        micro_batch_tokens: as in the config.
        recompute: `actor.recompute`.
        assumed: the rest.

    Raises:
        ValueError: the model leaves no memory for a single sample on a replica's GPUs.
    """
    colocated = not layout.rollout
    parameters = all_parameters(shape)
    moved = 2 * OPTIMIZER * parameters / layout.actor / HOST_LINK[gpu.name]
    return Setup(
        lag=lag,
        colocated=colocated,
        replicas=layout.replicas,
        replica=replica_speed(shape, gpu, layout.engine, prompt, longest, assumed),
        actor=actor_speed(shape, gpu, layout, prompt, micro_batch_tokens, recompute, assumed),
        refit_s=refit_s(shape, gpu, layout.replicas, assumed),
        switch_s=moved if colocated else 0.0,
        intake_s=assumed.intake_s,
        verdict_s=assumed.verdict_s,
        spread_s=assumed.spread_s,
        slow_replicas=assumed.slow_replicas,
        slow_ranks=assumed.slow_ranks,
    )


def replica_speed(
    shape: ModelShape, gpu: Gpu, engine: int, prompt: int, longest: int, assumed: Assumed
) -> ReplicaSpeed:
    """One replica on `engine` GPUs. Its slots are what the KV cache holds at full length, so that none is evicted.

    A decode step reads all weights once, and each sample's KV cache; the products of its tokens are added to that, as
    if nothing overlapped.

    Raises:
        ValueError: no room for a sample.
    """
    efficiency = assumed.efficiency
    weights = BFLOAT16 * all_parameters(shape)
    kv_token = 2 * BFLOAT16 * shape.layers * shape.kv_heads * shape.head_dim
    room = assumed.engine.kv_cache_fraction * (engine * gpu.memory_bytes - weights)
    slots = min(assumed.engine.max_batch_size, math.floor(room / (kv_token * (prompt + longest))))
    if slots < 1:
        raise ValueError(
            f"engine={engine}: {engine} × {gpu.memory_bytes / 1e9:.0f} GB hold {weights / 1e9:.0f} GB of weights, and "
            f"no KV cache of {prompt + longest} tokens beside them; give a replica more GPUs"
        )
    bandwidth = engine * gpu.bandwidth * efficiency.decode
    speed = engine * peak_flops(gpu, "bfloat16") * efficiency.prefill
    all_reduces = 2 * shape.layers * assumed.all_reduce_s if engine > 1 else 0.0
    return ReplicaSpeed(
        slots=slots,
        prefill_s=flops.prefill_flops(shape, prompt) / speed,
        step_s=weights / bandwidth + efficiency.decode_overhead_ms / 1e3 + all_reduces,
        sample_s=(flops.body_flops(shape, 1, 0) + flops.head_flops(shape, 1)) / speed,
        kv_token_s=kv_token / bandwidth,
    )


def actor_speed(
    shape: ModelShape, gpu: Gpu, layout: Layout, prompt: int, micro_batch_tokens: int, recompute: str, assumed: Assumed
) -> ActorSpeed:
    """The actor: work by FLOPs of each sample, shared by the GPUs of its data-parallel rank."""
    efficiency = assumed.efficiency
    speed = layout.tensor * layout.pipeline * peak_flops(gpu, "bfloat16")
    return ActorSpeed(
        ranks=layout.actor,
        data=layout.data,
        stages=layout.pipeline,
        micro_batch_tokens=micro_batch_tokens,
        half_speed_tokens=HALF_SPEED_ROWS * layout.tensor,
        log_probs=sample_pass(lambda n: flops.log_prob_flops(shape, prompt, n), speed * efficiency.log_probs),
        train=sample_pass(
            lambda n: flops.train_flops(shape, prompt, n) + flops.recomputed_flops(shape, prompt, n, recompute),
            speed * efficiency.train,
        ),
        collective_s=collective_s(shape, gpu, layout, assumed),
    )


def sample_pass(work: Callable[[int], int], speed: float) -> SamplePass:
    """A pass whose FLOPs are a polynomial of degree 2 in the response's tokens, as all of `recipes.models.flops` are.

    Args:
        work: FLOPs at so many tokens.
        speed: FLOP/s.
    """
    one, two, three = work(1), work(2), work(3)
    square = (three - 2 * two + one) / 2
    linear = two - one - 3 * square
    return SamplePass((one - linear - square) / speed, linear / speed, square / speed)


def collective_s(shape: ModelShape, gpu: Gpu, layout: Layout, assumed: Assumed) -> float:
    """Seconds of a step in which data-parallel ranks exchange gradients and weights, beside the passes: no overlap.

    The distributed optimizer reduces and scatters float32 gradients and gathers bfloat16 weights: in a ring of n ranks
    each sends (n - 1) / n of both, and every bucket passes n - 1 hops twice.
    """
    ranks = layout.data
    if ranks == 1:
        return 0.0
    mine = all_parameters(shape) / (layout.tensor * layout.pipeline)
    link = gpu.node_link if layout.actor <= layout.gpus_per_node else gpu.network_link
    sent = ring((FLOAT32 + BFLOAT16) * mine, ranks)
    hops = 2 * (ranks - 1) * math.ceil(mine / assumed.bucket)
    return sent / (link * assumed.efficiency.network) + hops * assumed.hop_s


def refit_s(shape: ModelShape, gpu: Gpu, servers: int, assumed: Assumed) -> float:
    """Seconds in which one broadcast brings bfloat16 weights to all servers, and each says that it has them.

    Every GPU of a server gets the whole model, once over its own network link; chunks follow each other through the
    ranks, so the bytes take as long for many as for one.
    """
    sent = BFLOAT16 * all_parameters(shape) / (gpu.network_link * assumed.efficiency.network)
    return sent + servers * assumed.server_s
