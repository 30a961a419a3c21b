"""What the parts of `crossthink plan` say to each other. Bytes, seconds and counts; formatting is the table's."""

from __future__ import annotations

from dataclasses import dataclass

from conf.plan import PlanConfig
from recipes.models.families import ModelShape

KNOWN = ("formula", "measured", "published", "assumed")
"""Where a number is from: exact by formula, measured by a command of benchmarks/, published elsewhere, or assumed."""


@dataclass(frozen=True)
class Gpu:
    """One accelerator, and the links of a usual node of eight.

    Attributes:
        name: as `plan` takes it.
        device: as torch names it, for `recipes.models.peaks`.
        memory_bytes: what a program may use of it.
        bandwidth: of its memory, bytes/s.
        node_link: to the other GPUs of its node (NVLink), bytes/s, one direction.
        network_link: to GPUs of other nodes, its share of the node's adapters, bytes/s, one direction.
    """

    name: str
    device: str
    memory_bytes: float
    bandwidth: float
    node_link: float
    network_link: float


@dataclass(frozen=True)
class Job:
    """What is planned.

    Attributes:
        config: the run's; everything open in it (dtype, data_parallel, ...) has been decided for `gpu`.
        shape: the model's.
        gpu: of every actor and rollout node; None: CPUs.
        world: ranks of the actor.
        rollout_gpus: of rollout nodes; 0: none are set aside.
        gpus_per_node: of a node.
        prompt: tokens of a mean prompt.
        response: tokens of a mean response.
    """

    config: PlanConfig
    shape: ModelShape
    gpu: Gpu | None
    world: int
    rollout_gpus: int
    gpus_per_node: int
    prompt: int
    response: int

    @property
    def dtype(self) -> str:
        """Of the actor's weights and activations, one of `recipes.actors.mcore.precision.DTYPES`."""
        assert self.config.actor.dtype is not None, "a job's configuration has nothing open"
        return self.config.actor.dtype

    @property
    def tensor(self) -> int:
        """Tensor-parallel size of the actor."""
        return self.config.actor.tensor_parallel

    @property
    def pipeline(self) -> int:
        """Pipeline-parallel size of the actor."""
        return self.config.actor.pipeline_parallel

    @property
    def data(self) -> int:
        """Data-parallel size of the actor: what is left of its ranks."""
        return self.world // (self.tensor * self.pipeline)

    @property
    def servers(self) -> int:
        """Rollout servers; 0: the actor's ranks generate. Those of `rollout.url` go before own ones, as in a run."""
        return len(self.config.rollout.url) or self.config.rollout.servers

    @property
    def served(self) -> bool:
        """Whether others than the actor's ranks generate."""
        return self.servers > 0

    @property
    def servers_share_gpus(self) -> bool:
        """Whether servers are on the actor's GPUs: own ones, unless nodes are set aside for them, or colocated ones."""
        rollout = self.config.rollout
        return self.served and not self.rollout_gpus and (rollout.colocated or not rollout.url)

    @property
    def generates_here(self) -> bool:
        """Whether the actor's GPUs generate, by its ranks or by servers."""
        return not self.served or self.servers_share_gpus

    @property
    def makes_room(self) -> bool:
        """Whether the actor frees memory for generation, as `recipes.rl.step.room_for_rollouts` has it."""
        needed = not self.served or self.config.rollout.colocated
        return self.config.actor.offload and self.gpu is not None and needed


@dataclass(frozen=True)
class Item:
    """One bar of the picture: so many bytes, or so many seconds, of something."""

    name: str
    amount: float
    known: str = "formula"
    note: str = ""


@dataclass(frozen=True)
class PhaseMemory:
    """What one rank holds at the peak of a phase.

    Attributes:
        phase: rollout, log_probs, train, refit, checkpoint; rollout_server for a GPU of a rollout node.
        stage: pipeline stage of the rank.
        items: bytes of each kind of tensor.
    """

    phase: str
    stage: int
    items: tuple[Item, ...]

    @property
    def total(self) -> float:
        """Bytes of all items."""
        return sum(item.amount for item in self.items)


@dataclass(frozen=True)
class PhaseTime:
    """How long a phase of a step takes.

    Attributes:
        phase: as in metrics.jsonl: rollout, reward, log_probs, values, train, refit.
        items: seconds of its parts, one after another (what overlaps is counted once).
        on: actor or rollout: whose GPUs it occupies.
    """

    phase: str
    items: tuple[Item, ...]
    on: str = "actor"

    @property
    def total(self) -> float:
        """Seconds of all items."""
        return sum(item.amount for item in self.items)


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in a step for one reason.

    Attributes:
        what: gradients, weights (the distributed optimizer's gather), tensor_parallel, pipeline, refit, ...
        group: TP, PP, DP or refit.
        bytes: sent by the rank that sends most.
        link: node or network.
    """

    what: str
    group: str
    bytes: float
    link: str
