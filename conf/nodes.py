"""The nodes that a job takes: `nodes.*`. For `plan` and `submit`; `train` starts none, and passes over them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class NodesConfig:
    """Nodes of a job by what runs on them, for `plan` and `submit`. `train` alone stays on its machine."""

    actor: int = 1
    """Nodes of the actor: gpus_per_node ranks each."""
    rollout: int = 0
    """Nodes of rollout servers alone; 0: they run on the actor's nodes."""
    reward: int = 0
    """CPU nodes of reward servers, one each; 0: one server, on the actor's first node."""
    gpus_per_node: int = 8
    """GPUs of an actor or rollout node. On CPUs: ranks of an actor node, rollout servers of a rollout node."""
