"""How well a step used the machine: FLOP/s by phase, MFU, padding, memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recipes.actors.packing import packs, positions, shares
from recipes.models import flops
from recipes.models.families import ModelShape
from recipes.rl.records import PhaseClock
from recipes.spmd import gather_json

# The passes that the loop notes on its clock, and what they cost by the shape, prompt tokens and response tokens.
PASSES: dict[str, Callable[[ModelShape, int, int], int]] = {
    "prefill": lambda shape, prompt, _: flops.prefill_flops(shape, prompt),
    "decode": flops.decode_flops,
    "log_probs": flops.log_prob_flops,
    "values": flops.value_flops,
    "train": flops.train_flops,
    "train_critic": flops.train_critic_flops,
}


@dataclass(frozen=True)
class Throughput:
    """What turns a step's passes and seconds into figures.

    Attributes:
        shape: of the policy, and of the critic's body.
        devices: ranks.
        data: data-parallel ranks.
        micro_batch_tokens: as in the config.
        multiple: the actor pads rows to a multiple of this.
        packed: the actor packs sequences.
        peak_tflops: of one device in the format of its matrix products; None where it is not known.
    """

    shape: ModelShape
    devices: int
    data: int
    micro_batch_tokens: int
    multiple: int
    packed: bool
    peak_tflops: float | None

    def metrics(self, clock: PhaseClock) -> dict[str, Any]:
        """`tflops` of a device by phase, `mfu` of the train phase, and `padding` of its micro-batches.

        Model FLOPs, without padding and without what the backward pass computes again (`recipes.models.flops`). A
        phase's seconds count whole: what a rollout spends on drawing tokens lowers its TFLOP/s.
        """
        work: dict[str, int] = {}
        for one in clock.passes:
            cost = sum(PASSES[one.kind](self.shape, prompt, response) for prompt, response in one.lengths)
            work[one.phase] = work.get(one.phase, 0) + cost
        tflops = {phase: cost / 1e12 / clock.seconds[phase] / self.devices for phase, cost in work.items()}
        return {
            "tflops": tflops,
            "mfu": tflops["train"] / self.peak_tflops if self.peak_tflops and "train" in tflops else None,
            "padding": self._padding([one.lengths for one in clock.passes if one.kind == "train"]),
        }

    def _padding(self, steps: Sequence[Sequence[tuple[int, int]]]) -> float | None:
        found = [
            padding([sum(pair) for pair in lengths], self.data, self.micro_batch_tokens, self.multiple, self.packed)
            for lengths in steps
        ]
        positions = sum(all_of_them for all_of_them, _ in found)
        return sum(filler for _, filler in found) / positions if positions else None


def padding(
    lengths: Sequence[int], data: int, micro_batch_tokens: int, multiple: int = 1, packed: bool = False
) -> tuple[int, int]:
    """Positions of an optimizer step's micro-batches on all data-parallel ranks, and how many of them are padding.

    Args:
        lengths: tokens of each sample.
        data: data-parallel ranks.
        micro_batch_tokens, packed: see `recipes.actors.packing.micro_batches`.
        multiple: rows are padded to a multiple of this.
    """
    found = 0
    for share in shares(lengths, data):
        mine = [lengths[i] for i in share]
        for pack in packs(mine, micro_batch_tokens, packed):
            found += positions([mine[i] for i in pack], multiple, packed)
    return found, found - sum(length - 1 for length in lengths)


def peak_memory_mb() -> float | None:
    """The most memory that a rank has had so far, in 10^6 bytes; None where the system does not tell. Collective.

    What torch allocated on the GPU; on a CPU the resident high-water mark of the process.
    """
    found = [value for value in gather_json(_own_peak_mb()) if value is not None]
    return max(found) if found else None


def _own_peak_mb() -> float | None:
    if dist.get_backend() == "nccl":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text("utf-8"), re.MULTILINE) if status.is_file() else None
    return int(found[1]) * 1024 / 1e6 if found else None
