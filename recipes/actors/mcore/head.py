"""Log-probabilities and entropy from hidden states, over a vocabulary that tensor-parallel ranks share.

Logits of [positions, vocabulary] never exist as a whole: they are made, used and dropped chunk by chunk along the
positions, and made again in the backward pass. At 152,064 ids and 4,096 positions they would be 2.5 GB in float32, and
their softmax and gradient as much again each.

Shape letters: n positions, h hidden size, v this rank's part of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor
from torch.distributed import ProcessGroup

from recipes.actors.interface import MicroBatch
from recipes.actors.mcore.layout import WeightLayout
from recipes.actors.mcore.passes import Head


@dataclass(frozen=True)
class LogProbHead:
    """How hidden states become probabilities.

    Attributes:
        vocabulary: ids that may be sampled; those at and beyond it have probability 0.
        temperature: logits are divided by it.
        chunk_bytes: most bytes of float32 logits that exist at a time on a rank.
        first: the first id of this rank's part of the vocabulary.
        group: the tensor-parallel group; None where a rank has the whole vocabulary.
    """

    vocabulary: int
    temperature: float
    chunk_bytes: int
    first: int = 0
    group: ProcessGroup | None = None

    def log_probs(self, hidden_nh: Tensor, weight_vh: Tensor, labels_n: Tensor) -> tuple[Tensor, Tensor]:
        """log p(label) with gradient, and the entropy in nats without: float32 [n] each, equal on every rank.

        Args:
            hidden_nh: [n, h], whole on every tensor-parallel rank; its gradient is this rank's part of a sum.
            weight_vh: [v, h].
            labels_n: int64 [n], ids of the whole vocabulary.
        """
        return _ChunkedLogProbs.apply(hidden_nh, weight_vh, labels_n, self)

    def chunks(self, positions: int, columns: int) -> Iterator[slice]:
        """Slices of the positions whose logits fit into `chunk_bytes`."""
        size = max(1, self.chunk_bytes // (4 * columns))
        return (slice(start, min(start + size, positions)) for start in range(0, positions, size))

    def logits(self, hidden_nh: Tensor, weight_vh: Tensor) -> Tensor:
        """float32 [n, v] at the sampling temperature; ids that nobody may sample have the lowest float."""
        logits_nv = (hidden_nh @ weight_vh.t()).float().div_(self.temperature)
        spare = self.first + logits_nv.shape[1] - self.vocabulary
        if spare > 0:
            logits_nv[:, max(0, logits_nv.shape[1] - spare) :] = torch.finfo(torch.float32).min
        return logits_nv

    def own(self, labels_n: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """Which labels this rank has, as a bool [n], and their columns (0 for the others)."""
        columns_n = labels_n - self.first
        mine_n = (columns_n >= 0) & (columns_n < columns)
        return mine_n, columns_n.masked_fill(~mine_n, 0)

    def reduce(self, tensor: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """Over the tensor-parallel ranks, in place."""
        if self.group is not None:
            dist.all_reduce(tensor, op=op, group=self.group)
        return tensor


def head_weight(model: GPTModel) -> Tensor:
    """The weight of the last stage's head, [v, h]: the embedding's where they are tied."""
    if model.share_embeddings_and_output_weights:
        return model.shared_embedding_or_output_weight()
    return model.output_layer.weight


def end_with_hidden_states(model: GPTModel) -> None:
    """Make the last stage give hidden states [b, t, h] of all positions where it would give logits.

    Its output layer keeps the weight, and is still called, because data-parallel hooks of its weight wait for that.
    """

    def forward(hidden_tbh: Tensor, **_: Any) -> tuple[Tensor, None]:
        # In the backward pass the ranks' parts of the gradient are added up: each knows its part of the vocabulary.
        if model.config.sequence_parallel:
            return gather_from_sequence_parallel_region(hidden_tbh, tensor_parallel_output_grad=True), None
        copied_tbh = copy_to_tensor_model_parallel_region(hidden_tbh)
        if copied_tbh.requires_grad:
            # megatron-core (mappings.py:32 of 0.16.1) reduces a copy of a gradient that is not contiguous: lost.
            copied_tbh.register_hook(lambda gradient_tbh: gradient_tbh.contiguous())
        return copied_tbh, None

    if model.post_process:
        model.output_layer.forward = forward


def policy_head(layout: WeightLayout, vocabulary: int, temperature: float, chunk_bytes: int) -> Head:
    """What a policy's passes do with hidden states.

    Args:
        layout: where the parameters lie.
        vocabulary: ids that may be sampled.
        temperature: the sampling temperature; 0 counts as 1.
        chunk_bytes: most bytes of float32 logits that exist at a time on a rank.

    Returns:
        A head that gives log_probs_bt with gradient, 0 outside the mask, and the summed entropy of the positions that
        have a weight, as `entropy`.
    """
    mesh = layout.mesh
    head = LogProbHead(
        vocabulary,
        temperature if temperature > 0 else 1.0,
        chunk_bytes,
        first=mesh.tensor_rank * (layout.vocabulary_rows // mesh.tensor),
        group=mesh.tensor_group if mesh.tensor > 1 else None,
    )
    return partial(_response_log_probs, head)


def _response_log_probs(
    head: LogProbHead, model: GPTModel, batch: MicroBatch, hidden_bth: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    device = hidden_bth.device
    mask_bt = batch.mask_bt.to(device)
    # Only response positions are ever turned into probabilities.
    log_probs_n, entropy_n = head.log_probs(
        hidden_bth[mask_bt], head_weight(model), batch.labels_bt.to(device)[mask_bt]
    )
    log_probs_bt = torch.zeros(mask_bt.shape, device=device).masked_scatter(mask_bt, log_probs_n)
    weights_bt = batch.per_token_bt.get("weights")
    if weights_bt is not None:  # as in the loss's own sums; replaced, because NaN · 0 is NaN
        entropy_n = torch.where(weights_bt.to(device)[mask_bt] != 0, entropy_n, 0.0)
    return log_probs_bt, {"entropy": entropy_n.sum()}


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, hidden_nh: Tensor, weight_vh: Tensor, labels_n: Tensor, head: LogProbHead
    ) -> tuple[Tensor, Tensor]:
        positions, columns = hidden_nh.shape[0], weight_vh.shape[0]
        log_norm_n, label_n, entropy_n = (hidden_nh.new_empty(positions, dtype=torch.float32) for _ in range(3))
        mine_n, column_n = head.own(labels_n, columns)
        for part in head.chunks(positions, columns):
            logits_nv = head.logits(hidden_nh[part], weight_vh)
            label_n[part] = logits_nv.gather(1, column_n[part, None])[:, 0].masked_fill(~mine_n[part], 0.0)
            peak_n = head.reduce(logits_nv.amax(dim=1), dist.ReduceOp.MAX)
            logits_nv -= peak_n[:, None]
            # An id that nobody may sample has weight 0 and a huge negative logit; 0 × logit must stay 0.
            logits_nv.clamp_(min=-1e4)
            weight_nv = logits_nv.exp()
            total_n, product_n = head.reduce(torch.stack([weight_nv.sum(1), logits_nv.mul_(weight_nv).sum(1)]))
            log_total_n = total_n.log()
            log_norm_n[part] = peak_n + log_total_n
            entropy_n[part] = log_total_n - product_n / total_n
        head.reduce(label_n)
        ctx.save_for_backward(hidden_nh, weight_vh, log_norm_n, mine_n, column_n)
        ctx.head = head
        ctx.mark_non_differentiable(entropy_n)
        return label_n - log_norm_n, entropy_n

    @staticmethod
    def backward(ctx, gradient_n: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_nh, weight_vh, log_norm_n, mine_n, column_n = ctx.saved_tensors
        head: LogProbHead = ctx.head
        hidden_gradient_nh = torch.empty_like(hidden_nh)
        weight_gradient_vh = torch.zeros_like(weight_vh, dtype=torch.float32)
        for part in head.chunks(hidden_nh.shape[0], weight_vh.shape[0]):
            # d log p(label) / d logit = [label] - p
            slope_nv = head.logits(hidden_nh[part], weight_vh).sub_(log_norm_n[part, None]).exp_().neg_()
            slope_nv.scatter_add_(1, column_n[part, None], mine_n[part, None].float())
            slope_nv *= (gradient_n[part] / head.temperature)[:, None]
            slope_nv = slope_nv.to(weight_vh.dtype)
            hidden_gradient_nh[part] = slope_nv @ weight_vh
            weight_gradient_vh += slope_nv.t() @ hidden_nh[part]
        return hidden_gradient_nh, weight_gradient_vh.to(weight_vh.dtype), None, None
