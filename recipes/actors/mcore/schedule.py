"""megatron-core's pipeline schedule over micro-batches of differing shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from recipes.actors.interface import MicroBatch

# (micro-batch, the last stage's output) -> what the schedule is told: a loss with its sums, or data to collect.
OutputFunction = Callable[..., Any]


def run_schedule(
    model: Any,
    batches: Sequence[MicroBatch],
    output: OutputFunction,
    device: torch.device,
    *,
    forward_only: bool,
    multiple: int = 1,
) -> list[Any]:
    """Run every micro-batch through the pipeline, with backward passes unless `forward_only`.

    Args:
        model: this rank's stage; wrapped for training where there are backward passes.
        batches: at least one, of equal number on every rank of a pipeline.
        output: called on the last stage, `output(batch, stage_output)`; the stage's output is [b, t, ...].
        device: where the stage lives.
        forward_only: no backward passes; `output` collects data instead of giving a loss.
        multiple: the stage's lengths are padded on the right to a multiple of this; `output` never sees the padding.

    Returns:
        What `output` gave, micro-batch by micro-batch; empty except on the last stage.
    """

    def forward_step(batch_iterator: Iterator[MicroBatch], stage: Any) -> tuple[Tensor, Any]:
        batch = next(batch_iterator)
        ids_bt = _padded(batch.token_ids_bt, multiple).to(device)
        # With rotary embeddings these are not looked at: the positions of packed sequences come with their lengths.
        positions_bt = torch.arange(ids_bt.shape[1], device=device).expand_as(ids_bt)
        # Padding stands on the right, where causal attention never looks: no mask is needed.
        stage_output = stage(ids_bt, positions_bt, None, packed_seq_params=packed_params(batch, ids_bt))
        return stage_output, partial(_without_padding, output, batch)

    width = max(batch.token_ids_bt.shape[1] for batch in batches)
    return get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=iter(batches),
        model=[model],
        num_microbatches=len(batches),
        seq_length=-(-width // multiple) * multiple,
        micro_batch_size=max(b.token_ids_bt.shape[0] for b in batches),
        forward_only=forward_only,
        collect_non_loss_data=forward_only,
    )


def packed_params(batch: MicroBatch, ids_bt: Tensor) -> PackedSeqParams | None:
    """Where the sequences of a packed row begin and end; the last one takes the row's padding along.

    Args:
        batch: the micro-batch.
        ids_bt: its tokens with padding, on the device.
    """
    if batch.packed_lengths is None:
        return None
    lengths = list(batch.packed_lengths)
    lengths[-1] += ids_bt.shape[1] - sum(lengths)
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(ids_bt.device)
    return PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends, max_seqlen_q=max(lengths), max_seqlen_kv=max(lengths)
    )


def _padded(ids_bt: Tensor, multiple: int) -> Tensor:
    # Which id pads does not matter: nothing looks at it, and its outputs are cut off.
    return torch.nn.functional.pad(ids_bt, (0, -ids_bt.shape[1] % multiple))


def _without_padding(output: OutputFunction, batch: MicroBatch, stage_output: Tensor, **options: Any) -> Any:
    return output(batch, stage_output[:, : batch.token_ids_bt.shape[1]], **options)
