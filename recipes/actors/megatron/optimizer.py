"""Gradient buffers and Adam through megatron-core."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, clip_grads, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig

from conf.actor import ActorConfig, OptimizerConfig
from recipes.actors.mcore.mesh import Mesh


@dataclass(frozen=True)
class Sharing:
    """How data-parallel ranks share the optimizer's work.

    Attributes:
        distributed: each holds a part of Adam's state and updates that part of the weights (ZeRO-1).
        overlap: gradients are reduced during the backward pass, and updated weights gathered during the forward pass.
    """

    distributed: bool
    overlap: bool

    @staticmethod
    def of(settings: ActorConfig, mesh: Mesh) -> Sharing:
        """What `actor.distributed_optimizer` and `actor.overlap` come to on this mesh."""
        distributed = mesh.data > 1 if settings.distributed_optimizer is None else settings.distributed_optimizer
        overlap = mesh.device.type == "cuda" if settings.overlap is None else settings.overlap
        return Sharing(distributed, overlap and mesh.data > 1)


def wrap_for_training(
    model: GPTModel, optimizer: OptimizerConfig, sharing: Sharing
) -> tuple[DistributedDataParallel, MegatronOptimizer]:
    """The model with gradient buffers that data-parallel ranks reduce, and its Adam.

    Gradients are accumulated and reduced in float32, and Adam works on float32 weights, whatever the model's dtype.
    """
    gather_late = sharing.overlap and sharing.distributed
    ddp = DistributedDataParallel(
        model.config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=sharing.distributed,
            overlap_grad_reduce=sharing.overlap,
            overlap_param_gather=gather_late,
        ),
        model,
    )
    model.config.finalize_model_grads_func = finalize_model_grads
    if sharing.overlap:
        # All micro-batches but the last only add to the buffers.
        model.config.no_sync_func = ddp.no_sync
    adam = get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=optimizer.lr,
            adam_beta1=optimizer.betas[0],
            adam_beta2=optimizer.betas[1],
            adam_eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            clip_grad=optimizer.clip_grad,
            bf16=model.config.bf16,
            params_dtype=model.config.params_dtype,
            use_distributed_optimizer=sharing.distributed,
            overlap_param_gather=gather_late,
        ),
        [ddp],
    )
    model.config.grad_scale_func = adam.scale_loss
    return ddp, adam


def step_if_finite(adam: MegatronOptimizer, lr: float, finite: bool) -> float:
    """One step of Adam on the gradients in the buffers, unless they or the loss are not finite. Collective.

    megatron-core's own `step` would clip an infinite gradient to zeros and NaN and take the step.

    Args:
        lr: learning rate.
        finite: whether the loss is finite; alike on every rank.

    Returns:
        The gradient norm before clipping, alike on every rank; where it is not finite nothing was changed.
    """
    adam.prepare_grads()
    norm = float(adam.get_grad_norm())
    if not finite or not math.isfinite(norm):
        return norm
    for group in adam.param_groups:
        group["lr"] = lr
    if adam.config.clip_grad > 0:
        clip_grads.clip_grad_by_total_norm_fp32(adam.get_parameters(), adam.config.clip_grad, norm)
    adam.step_with_ready_grads()
    return norm


def needs_gathering(ddp: DistributedDataParallel) -> bool:
    """Whether weights are gathered during the next forward pass, and not with the step."""
    return bool(ddp.ddp_config.overlap_param_gather)


@torch.no_grad()
def gather_weights(ddp: DistributedDataParallel) -> None:
    """Gather, at once, what an overlapped gather would gather during the next forward pass. Collective."""
    ddp.start_param_sync(force_sync=True)
