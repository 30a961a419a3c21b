"""New weights into a model that a TensorRT-LLM worker holds, bucket by bucket."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recipes.rollout.trtllm.fp8 import quantized


@dataclass
class Taken:
    """How far a refit came.

    Attributes:
        names: of the tensors that came.
        bytes: theirs, before any quantization.
        touched: whether the old weights are gone.
    """

    names: list[str] = field(default_factory=list)
    bytes: int = 0
    touched: bool = False


def load(
    engine: Any,
    tensors: Iterable[tuple[str, Tensor]],
    taken: Taken,
    *,
    bucket_bytes: int,
    fp8: bool,
    finalize: Callable[[], None] | None,
) -> None:
    """Take over a whole set of weights. Nothing may be under way in the engine meanwhile.

    Args:
        engine: TensorRT-LLM's PyExecutor.
        tensors: Hugging Face names and values, which are not changed and kept no longer than a bucket.
        taken: filled in as tensors come, whatever happens then.
        bucket_bytes: how much is gathered before it is loaded.
        fp8: quantize the projections.
        finalize: TensorRT-LLM's own last step, where this release has it; None: each module's own.
    """
    model, loader = engine.model_engine.model, engine.model_engine.model_loader
    buckets = _buckets(tensors, bucket_bytes, taken)
    first = next(buckets, {})  # a sender that is not there must not cost the old weights
    synchronize()  # with the overlap scheduler a forward pass may still run
    taken.touched = True
    _call(loader, "begin_update_weights")
    try:
        for module in _live(model):
            _call(module, "pre_reload_weights")
        for bucket in itertools.chain([first], buckets):
            weights = dict(pair for name, value in bucket.items() for pair in quantized(name, value)) if fp8 else bucket
            loader.reload(model, weights, allow_partial_loading=True)
        if finalize is not None:
            finalize()
        else:
            _call(loader, "finalize_update_weights")
            for module in _live(model):
                _call(module, "process_weights_after_loading")
                _call(module, "post_load_weights")
        synchronize()
    except BaseException:
        _call(loader, "abort_update_weights")
        raise
    engine.reset_prefix_cache()


def _buckets(tensors: Iterable[tuple[str, Tensor]], limit: int, taken: Taken) -> Iterator[dict[str, Tensor]]:
    """Gather tensors up to `limit` bytes; a larger one is a bucket of its own."""
    bucket: dict[str, Tensor] = {}
    held = 0
    for name, value in tensors:
        size = value.nbytes
        if bucket and held + size > limit:
            yield bucket
            bucket, held = {}, 0
        bucket[name] = value
        held += size
        taken.names.append(name)
        taken.bytes += size
    if bucket:
        yield bucket


def _live(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if not getattr(module, "_weights_removed", False))


def _call(owner: Any, name: str) -> None:
    """Call a hook that only some modules and releases have."""
    hook = getattr(owner, name, None)
    if hook is not None:
        hook()


def synchronize() -> None:
    """Wait for this process's GPU, where it has one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
