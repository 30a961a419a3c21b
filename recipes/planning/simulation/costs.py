"""The seconds that a simulation starts from: by formula from shape and peaks, and what is assumed or was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from conf.plan import EfficiencyConfig
from conf.rollout import TrtllmConfig
from recipes.models import flops
from recipes.models.families import ModelShape
from recipes.planning.communication import COLLECTIVE_LATENCY_S, ring, ring_bandwidth
from recipes.planning.generation import decode_costs, trtllm_server
from recipes.planning.gpus import GB, host_seconds, peak_flops
from recipes.planning.interface import Gpu
from recipes.planning.parameters import all_parameters
from recipes.planning.passes import HALF_SPEED_ROWS
from recipes.planning.simulation.events import ServerSpeed
from recipes.planning.simulation.steps import ActorSpeed, SamplePass, Setup, Stragglers
from recipes.planning.timing import VERDICTS_PER_SECOND
from recipes.planning.weights import BYTES, FLOAT32, MOMENTS

BFLOAT16 = BYTES["bfloat16"]
# Bytes of a parameter that colocated ranks move to host memory and back: float32 weights and Adam's moments.
OPTIMIZER = (1 + MOMENTS) * FLOAT32


@dataclass(frozen=True)
class Assumed:
    """What no formula gives. `measured` figures are of `benchmarks/scale_checked.py`, the others are assumed.

    Attributes:
        efficiency: shares of the peaks; assumed, see docs/plan.md.
        trtllm: slots and share of the memory for the KV cache, as TensorRT-LLM is started.
        all_reduce_s: start of one all-reduce of a decode step among tensor-parallel GPUs.
        bucket: parameters of one message among data-parallel ranks: megatron-core's smallest bucket.
        hop_s: from a rank to the next in a ring.
        server_s: seconds of a refit for each server: its offer and its reply, in one Python process.
        intake_s: seconds a sample of the trainer's client: measured.
        verdict_s: seconds a verdict of one reward server: measured, VERDICTS_PER_SECOND of a plan.
        spread_s: seconds a sample of a batch on its way to every rank, and of reading it there: measured.
        slow_servers: rollout servers that are slow for a step.
        slow_ranks: GPUs of the actor that are.
    """

    efficiency: EfficiencyConfig = field(default_factory=EfficiencyConfig)
    trtllm: TrtllmConfig = field(default_factory=TrtllmConfig)
    all_reduce_s: float = COLLECTIVE_LATENCY_S
    bucket: float = 40e6
    hop_s: float = 5e-6
    server_s: float = 2e-3
    intake_s: float = 0.5e-3
    verdict_s: float = 1 / VERDICTS_PER_SECOND
    spread_s: float = 2.0e-3
    slow_servers: Stragglers = Stragglers(0.01, 1.5)
    slow_ranks: Stragglers = Stragglers(1e-4, 1.2)


@dataclass(frozen=True)
class Split:
    """GPUs, and how actor and servers share them.

    Attributes:
        actor: GPUs of the actor.
        rollout: GPUs of rollout servers alone; 0: colocated, the servers are on the actor's GPUs.
        tensor: tensor-parallel GPUs of the actor.
        pipeline: its pipeline stages.
        server_gpus: of one rollout server.
        gpus_per_node: of a node; links within it are faster.
    """

    actor: int
    rollout: int
    tensor: int
    pipeline: int
    server_gpus: int
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        serving = self.rollout or self.actor
        if self.actor < 1 or self.actor % (self.tensor * self.pipeline) or serving % self.server_gpus:
            raise ValueError(
                f"split: {self.actor} actor GPUs do not make whole models of {self.tensor} × {self.pipeline}, or "
                f"{serving} rollout GPUs no whole servers of {self.server_gpus}"
            )

    @property
    def gpus(self) -> int:
        """Of actor and rollout together."""
        return self.actor + self.rollout

    @property
    def data(self) -> int:
        """Data-parallel ranks of the actor."""
        return self.actor // (self.tensor * self.pipeline)

    @property
    def servers(self) -> int:
        """Rollout servers; on the actor's GPUs where none are set aside."""
        return (self.rollout or self.actor) // self.server_gpus


def make_setup(
    shape: ModelShape,
    gpu: Gpu,
    split: Split,
    lag: int,
    prompt: int,
    response: int,
    micro_batch_tokens: int,
    recompute: str,
    assumed: Assumed,
) -> Setup:
    """What `simulate` takes, for bfloat16 weights.

    Args:
        shape: the model's.
        gpu: all of them.
        split: where what runs.
        lag: `rollout.lag`.
        prompt: tokens of every prompt.
        response: tokens of a mean response.
        micro_batch_tokens: as in the config.
        recompute: `actor.recompute`.
        assumed: the rest.

    Raises:
        ValueError: the model leaves no memory for a single sample on a server's GPUs.
    """
    colocated = not split.rollout
    moved = 2 * OPTIMIZER * all_parameters(shape) / split.actor
    return Setup(
        lag=lag,
        colocated=colocated,
        servers=split.servers,
        server=server_speed(shape, gpu, split.server_gpus, prompt, response, assumed),
        actor=actor_speed(shape, gpu, split, prompt, micro_batch_tokens, recompute, assumed),
        refit_s=refit_s(shape, gpu, split.servers, assumed),
        switch_s=host_seconds(gpu, moved, assumed.efficiency.network) if colocated else 0.0,
        intake_s=assumed.intake_s,
        verdict_s=assumed.verdict_s,
        spread_s=assumed.spread_s,
        slow_servers=assumed.slow_servers,
        slow_ranks=assumed.slow_ranks,
    )


def server_speed(shape: ModelShape, gpu: Gpu, gpus: int, prompt: int, response: int, assumed: Assumed) -> ServerSpeed:
    """One server on so many GPUs.

    A decode step reads all weights once, and each sample's KV cache; the products of its tokens are added to that, as
    if nothing overlapped. `plan` takes the longer of weights and products.

    Raises:
        ValueError: no room for a sample.
    """
    server = trtllm_server(shape, gpu, replace(assumed.trtllm, tensor_parallel=gpus), prompt + response)
    if server.slots < 1:
        raise ValueError(
            f"server_gpus={gpus}: {gpus} × {gpu.memory_bytes / GB:.0f} GB have no room for a KV cache of "
            f"{prompt + response} tokens beside {server.weight_bytes / GB:.0f} GB of weights; give a server more GPUs"
        )
    costs = decode_costs(shape, gpu, server, prompt, assumed.efficiency, assumed.all_reduce_s)
    return ServerSpeed(
        slots=server.slots,
        prefill_s=costs.prefill_s,
        step_s=costs.weights_s + costs.fixed_s,
        sample_s=costs.sample_s,
        kv_token_s=costs.kv_token_s,
    )


def actor_speed(
    shape: ModelShape, gpu: Gpu, split: Split, prompt: int, micro_batch_tokens: int, recompute: str, assumed: Assumed
) -> ActorSpeed:
    """The actor: work by FLOPs of each sample, shared by the GPUs of its data-parallel rank."""
    efficiency = assumed.efficiency
    speed = split.tensor * split.pipeline * peak_flops(gpu, "bfloat16")
    return ActorSpeed(
        ranks=split.actor,
        data=split.data,
        stages=split.pipeline,
        micro_batch_tokens=micro_batch_tokens,
        half_speed_tokens=HALF_SPEED_ROWS * split.tensor,
        log_probs=sample_pass(lambda n: flops.log_prob_flops(shape, prompt, n), speed * efficiency.log_probs),
        train=sample_pass(
            lambda n: flops.train_flops(shape, prompt, n) + flops.recomputed_flops(shape, prompt, n, recompute),
            speed * efficiency.train,
        ),
        collective_s=collective_s(shape, gpu, split, assumed),
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


def collective_s(shape: ModelShape, gpu: Gpu, split: Split, assumed: Assumed) -> float:
    """Seconds of a step in which data-parallel ranks exchange gradients and weights, beside the passes: no overlap.

    The distributed optimizer reduces and scatters float32 gradients and gathers bfloat16 weights: in a ring of n ranks
    each sends (n - 1) / n of both, and every bucket passes n - 1 hops twice.
    """
    ranks = split.data
    if ranks == 1:
        return 0.0
    mine = all_parameters(shape) / (split.tensor * split.pipeline)
    link = ring_bandwidth(gpu, ranks, split.tensor, split.actor, split.gpus_per_node)
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
