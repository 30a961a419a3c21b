"""Out of memory: in which phase, at what shape, and what to lower."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from crossthink.errors import LocalError
from recipes.actors.interface import MicroBatch

# torch's allocator for CPUs raises a plain RuntimeError with one of these.
_CPU_MESSAGES = ("not enough memory", "can't allocate memory", "cannot allocate memory")


@contextlib.contextmanager
def naming_the_phase(phase: str, batches: Sequence[MicroBatch]) -> Iterator[None]:
    """Turn running out of memory inside the block into a message for the user.

    Args:
        phase: what the message calls the block.
        batches: the micro-batches that it runs.

    Raises:
        LocalError: names phase and largest micro-batch, and what to lower.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rows, width = max((batch.token_ids_bt.shape for batch in batches), key=lambda shape: shape[0] * shape[1])
        raise LocalError(
            f"Out of memory in the phase {phase}, with micro-batches up to {rows} × {width} = {rows * width} tokens. "
            "Lower micro_batch_tokens, or set actor.recompute=selective (or full) or actor.offload=true."
            + (f" One response alone has {width} tokens: max_response_tokens bounds that." if rows == 1 else "")
        ) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the error says that a device, or this machine, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error).lower() for text in _CPU_MESSAGES)
