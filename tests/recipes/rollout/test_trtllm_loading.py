"""FP8 blocks, and the order in which a worker takes new weights over."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trtllm_double import PROJECTION, TABLE, Executor

from recipes.rollout.trtllm.fp8 import BLOCK, quantize, quantized
from recipes.rollout.trtllm.loading import Taken, load

LARGEST = 448.0  # of E4M3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 1e6]))
def test_blocks_against_a_loop(rows, columns, seed, size):
    """Each block by itself: its largest value becomes E4M3's largest, and all values come back within half a step."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    weight[: BLOCK // 2] = 0
    values, scales = quantize(weight)
    assert values.shape == weight.shape and values.dtype == torch.float8_e4m3fn
    assert scales.shape == (math.ceil(rows / BLOCK), math.ceil(columns / BLOCK))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
            most = float(weight[block].abs().max())
            assert float(scales[i, j]) == pytest.approx(most / LARGEST if most else 1.0, rel=1e-6)
            back = values[block].float() * scales[i, j]
            assert float((back - weight[block]).abs().max()) <= most / 16 / 1.7, "three bits after the point"
            if most:
                assert float(values[block].float().abs().max()) == LARGEST


def test_only_projections_are_quantized():
    weight = torch.ones(256, 128, dtype=torch.bfloat16)
    names = [name for name, _ in quantized("model.layers.3.self_attn.q_proj.weight", weight)]
    assert names == ["model.layers.3.self_attn.q_proj.weight", "model.layers.3.self_attn.q_proj.weight_scale_inv"]
    for name, value in {
        "model.layers.3.self_attn.q_proj.bias": weight[0],
        "model.embed_tokens.weight": weight,
        "lm_head.weight": weight,
        "model.norm.weight": weight[0],
    }.items():
        [(same, kept)] = quantized(name, value)
        assert same == name and kept is value


def tensors(executor: Executor):
    """A model's weights, one by one."""
    table = torch.arange(48.0 * 48).reshape(48, 48)
    projection = torch.randn(256, 128, generator=torch.Generator().manual_seed(1))
    for name, value in ((TABLE, table), (PROJECTION, projection), ("model.norm.weight", torch.ones(8))):
        assert executor.model_engine.model.hooks.count("post") == 0
        yield name, value


@pytest.mark.parametrize("bucket_bytes", [1, 140_000, 10**9])
@pytest.mark.parametrize("fp8", [False, True])
def test_order_and_buckets(bucket_bytes, fp8):
    executor, taken = Executor(None), Taken()
    load(executor, tensors(executor), taken, bucket_bytes=bucket_bytes, fp8=fp8, finalize=None)
    model, loader = executor.model_engine.model, executor.model_engine.model_loader
    assert model.hooks == ["pre", "process", "post"] and executor.resets == 1
    assert taken == Taken([TABLE, PROJECTION, "model.norm.weight"], 4 * (48 * 48 + 256 * 128 + 8), True)
    assert len(loader.calls) == {1: 3, 140_000: 2, 10**9: 1}[bucket_bytes]
    assert torch.equal(model.model.table.weight, torch.arange(48.0 * 48).reshape(48, 48))
    assert (f"{PROJECTION}_scale_inv" in loader.given) == fp8
    assert loader.given[PROJECTION].dtype == (torch.float8_e4m3fn if fp8 else torch.float32)


def test_hooks_of_other_releases():
    """A loader's own begin, finalize and abort are called where they are; a worker's own finalize takes their place."""
    calls: list[str] = []
    executor = Executor(None)
    loader = executor.model_engine.model_loader
    for name in ("begin", "finalize", "abort"):
        setattr(loader, f"{name}_update_weights", lambda name=name: calls.append(name))
    load(executor, tensors(executor), Taken(), bucket_bytes=10**9, fp8=False, finalize=None)
    assert calls == ["begin", "finalize"]
    calls.clear()
    executor.model_engine.model.hooks.clear()
    load(executor, tensors(executor), Taken(), bucket_bytes=10**9, fp8=False, finalize=lambda: calls.append("own"))
    assert calls == ["begin", "own"] and executor.model_engine.model.hooks == ["pre"]


def test_a_sender_that_never_comes_costs_nothing():
    executor, taken = Executor(None), Taken()

    def nothing():
        raise ConnectionError("nobody there")
        yield

    with pytest.raises(ConnectionError):
        load(executor, nothing(), taken, bucket_bytes=10**9, fp8=False, finalize=None)
    assert not taken.touched and executor.model_engine.model.hooks == [] and executor.resets == 0


def test_a_failure_midway_is_told():
    executor, taken = Executor(fail_after=1), Taken()
    aborted: list[bool] = []
    executor.model_engine.model_loader.abort_update_weights = lambda: aborted.append(True)
    with pytest.raises(RuntimeError, match="out of memory"):
        load(executor, tensors(executor), taken, bucket_bytes=1, fp8=False, finalize=None)
    assert taken.touched and aborted == [True] and executor.resets == 0
