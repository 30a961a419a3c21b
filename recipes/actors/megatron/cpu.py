"""Lets megatron-core 0.16.1 run on a machine without CUDA. Does nothing where CUDA exists.

Only the name `torch` inside loaded `megatron.core.*` modules is replaced, by a proxy whose `torch.cuda` answers for the
CPU; the real torch stays as it is for everybody else. What the proxy and the wrapped functions stand for:

| what | needed by |
|---|---|
| device="cuda" in tensor factories | clip_grads.py, optimizer.py, schedules.py, param_and_grad_buffer.py |
| torch.cuda.current_device, synchronize | layers.py, gpt_model.py, p2p_communication.py, filesystem_async.py |
| RNG state and seed of the device | tensor_parallel/random.py: the tracker forks the CPU generator instead |
| Tensor.cuda() | language_module.py: tied embeddings; rope_utils.py |
| Tensor.type() == "torch.cuda.FloatTensor" | clip_grads.py, optimizer.py, distrib_optimizer.py: kinds of parameters |
| a coalescing manager for gloo | param_and_grad_buffer.py: several collectives that are waited for together |
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

_FACTORIES = ("arange", "empty", "empty_like", "full", "ones", "tensor", "zeros", "zeros_like")


class _CudaForCpu(types.ModuleType):
    """`torch.cuda` as megatron-core sees it without a GPU."""

    def __init__(self) -> None:
        super().__init__("torch.cuda")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def synchronize(self, *args: Any) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_rng_state(self, *args: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def manual_seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)


class _Coalesced(list):
    """Running collectives that are waited for together."""

    def wait(self) -> None:
        for work in self:
            work.wait()


_open_block: list[_Coalesced] = []


@contextlib.contextmanager
def _coalescing(group: Any = None, device: Any = None, async_ops: bool = False) -> Iterator[_Coalesced]:
    """Stands for torch's coalescing manager, which gloo lacks: collectives start as they come."""
    works = _Coalesced()
    _open_block.append(works)
    try:
        yield works
    finally:
        _open_block.pop()


def _coalesced(collective: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(collective)
    def start(*args: Any, **kwargs: Any) -> Any:
        work = collective(*args, **kwargs)
        if work is not None and _open_block:
            _open_block[-1].append(work)
        return work

    vars(start)["_runs_on_cpu"] = True
    return start


class _DistributedForCpu(types.ModuleType):
    """`torch.distributed` as megatron-core sees it without a GPU."""

    def __init__(self) -> None:
        super().__init__("torch.distributed")
        self.all_reduce = _coalesced(torch.distributed.all_reduce)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.distributed, name)


class _TorchForCpu(types.ModuleType):
    """`torch` as megatron-core sees it without a GPU."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.cuda = _CudaForCpu()
        self.distributed = _DistributedForCpu()
        for name in _FACTORIES:
            setattr(self, name, _on_cpu(getattr(torch, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = "cpu"
        return factory(*args, **kwargs)

    return make


@contextlib.contextmanager
def _tensors_pass_as_cuda() -> Iterator[None]:
    """Tensor.cuda() returns the tensor, Tensor.type() names a CUDA type; only while a wrapped function runs."""
    real_type, real_cuda = torch.Tensor.type, torch.Tensor.cuda

    def type_as_cuda(self: torch.Tensor, dtype: Any = None, *args: Any, **kwargs: Any) -> Any:
        if dtype is not None:
            return real_type(self, dtype, *args, **kwargs)
        return real_type(self).replace("torch.", "torch.cuda.", 1)

    torch.Tensor.type = type_as_cuda
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    try:
        yield
    finally:
        torch.Tensor.type, torch.Tensor.cuda = real_type, real_cuda


def _wrap(owner: Any, name: str) -> None:
    function = getattr(owner, name)
    if getattr(function, "_runs_on_cpu", False):
        return

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _tensors_pass_as_cuda():
            return function(*args, **kwargs)

    vars(wrapped)["_runs_on_cpu"] = True
    setattr(owner, name, wrapped)


_PROXY = _TorchForCpu()


def redirect_to_cpu() -> bool:
    """Redirect megatron-core to the CPU. Call after importing all that is used of it; calling again is harmless.

    Returns:
        Whether anything was redirected: False where CUDA exists.
    """
    if torch.cuda.is_available():
        return False
    # Imported late by megatron-core itself; imported now, so that the loop below finds it.
    import megatron.core.dist_checkpointing.strategies.torch  # noqa: F401
    from megatron.core.distributed import param_and_grad_buffer
    from megatron.core.models.common.embeddings import rope_utils
    from megatron.core.models.common.language_module.language_module import LanguageModule
    from megatron.core.optimizer import clip_grads, distrib_optimizer, optimizer
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    _wrap(LanguageModule, "setup_embeddings_and_output_layer")
    _wrap(clip_grads, "clip_grad_by_total_norm_fp32")
    optimizer.clip_grad_by_total_norm_fp32 = clip_grads.clip_grad_by_total_norm_fp32
    _wrap(rope_utils, "_apply_rotary_pos_emb_thd")
    _wrap(optimizer.Float16OptimizerWithFloat16Params, "__init__")
    _wrap(distrib_optimizer.DistributedOptimizer, "__init__")
    param_and_grad_buffer._coalescing_manager = _coalescing
    for name in ("dist_all_gather_func", "dist_reduce_scatter_func"):
        collective = getattr(param_and_grad_buffer, name)
        if not getattr(collective, "_runs_on_cpu", False):
            setattr(param_and_grad_buffer, name, _coalesced(collective))
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            vars(module)["torch"] = _PROXY
    return True
