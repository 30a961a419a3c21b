"""What leaves the device while it is not needed: the reference policy's weights, Adam's state, gradient buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from recipes.actors.megatron.adam_state import adam_tensors


class SwappedWeights:
    """A second set of weights for one model, which wait in host memory; pinned where the model is on a GPU."""

    def __init__(self, model: GPTModel) -> None:
        """Take a copy of the weights that the model has."""
        self._host = [_to_host(parameter) for parameter in model.parameters()]

    @contextlib.contextmanager
    def in_place_of_own(self, model: GPTModel) -> Iterator[None]:
        """Inside the block the model has these weights, and its own wait in host memory; exchanged bit for bit."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: GPTModel) -> None:
        # In place, parameter by parameter: buffers that the weights are views of stay, and the device needs room for
        # one parameter more.
        for parameter, host in zip(model.parameters(), self._host, strict=True):
            own = parameter.detach().clone()
            parameter.copy_(host)
            host.copy_(own)


class TrainingStateOffload:
    """Adam's state in host memory and no gradient buffers, until training needs them again."""

    def __init__(self, ddp: DistributedDataParallel, adam: MegatronOptimizer) -> None:
        self._ddp = ddp
        self._adam = adam
        self._away: list[tuple[Tensor, Tensor]] | None = None

    def leave(self) -> None:
        """Free what only training needs. Harmless where it is away already."""
        if self._away is not None:
            return
        self._away = [(tensor, _to_host(tensor)) for tensor in adam_tensors(self._adam)]
        for tensor in [*(tensor for tensor, _ in self._away), *self._gradients()]:
            # The tensor and its views stay what they are, without memory behind them.
            tensor.untyped_storage().resize_(0)

    @torch.no_grad()
    def come_back(self) -> None:
        """Everything as it was; gradients are zero. Harmless where nothing is away."""
        if self._away is None:
            return
        for tensor, host in self._away:
            _reallocate(tensor)
            tensor.copy_(host)
        for tensor in self._gradients():
            _reallocate(tensor)
            tensor.zero_()
        self._away = None

    def _gradients(self) -> list[Tensor]:
        return [buffer.grad_data for buffer in self._ddp.buffers]


def _to_host(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
    return host.copy_(tensor.detach())


def _reallocate(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(tensor.numel() * tensor.element_size())
