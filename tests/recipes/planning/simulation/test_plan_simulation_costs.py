"""What the simulation of steps starts from: response lengths, and seconds by formula."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.models.families import ModelShape
from recipes.models.flops import log_prob_flops, recomputed_flops, train_flops
from recipes.models.peaks import peak_tflops
from recipes.planning.gpus import GPUS
from recipes.planning.rollout_memory import trtllm_kv_room
from recipes.planning.simulation.costs import Assumed, Split, collective_s, make_setup, refit_s, server_speed
from recipes.planning.simulation.events import ServerSpeed, generate
from recipes.planning.simulation.load import Load, cut_mean

# Lengths.


@pytest.mark.parametrize(("mean", "spread"), [(700, 0.0), (700, 0.5), (700, 0.8), (2500, 1.0)])
def test_lengths_have_the_mean_that_was_asked_for(mean: int, spread: float) -> None:
    lengths = Load(4000, 8, 1, mean, spread, 4000).batch(0, 1).lengths
    assert lengths.mean() == pytest.approx(mean, rel=0.02)
    assert 1 <= lengths.min() <= lengths.max() <= 4000


@pytest.mark.parametrize(("median", "spread", "longest"), [(500.0, 0.8, 4000.0), (900.0, 1.2, 1000.0)])
def test_the_mean_of_cut_lengths_is_the_integral(median: float, spread: float, longest: float) -> None:
    normal = np.linspace(-12, 12, 200_001)
    density = np.exp(-(normal**2) / 2) / math.sqrt(2 * math.pi)
    wanted = (np.minimum(median * np.exp(spread * normal), longest) * density).sum() * (normal[1] - normal[0])
    assert cut_mean(median, spread, longest) == pytest.approx(float(wanted), rel=1e-6)


def test_a_larger_batch_begins_with_a_smaller_one() -> None:
    small, large = (Load(prompts, 8, 1, 700, 0.8, 4000).batch(5, 2).lengths for prompts in (4, 40))
    assert (large[:4] == small).all()


@given(st.integers(0, 10_000), st.floats(0.0, 0.6), st.floats(0.05, 0.3))
@settings(deadline=None)
def test_a_longer_tail_is_not_faster_where_the_batch_has_one(seed: int, spread: float, more: float) -> None:
    """At the same mean a wider spread makes common lengths shorter: it is slower only where somebody drew the tail."""
    loads = [Load(64, 8, 10, 200, one, 1_000_000) for one in (spread, spread + more)]
    narrow, wide = (load.batch(seed, 1) for load in loads)
    if math.log(wide.lengths.max() / loads[1].median) < (spread + more) ** 2:
        return  # the largest of 512 normal numbers is below the spread: no tail was drawn
    speed = ServerSpeed(1000, 0.0, 1.0, 0.0, 0.0)
    assert generate(wide, speed, [1.0]).end >= generate(narrow, speed, [1.0]).end - 1


@pytest.mark.parametrize("wrong", [{"mean": 0.5}, {"mean": 4001}, {"spread": -0.1}])
def test_loads_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="1 ≤ mean ≤ longest"):
        replace(Load(4, 4, 1, 700, 0.8, 4000), **wrong)


# Costs by formula.

QWEN_7B = ModelShape("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, False, True, False, 1e6, None, 1e-6)
H100 = GPUS["h100"]
SPLIT = Split(actor=8, rollout=8, tensor=4, pipeline=1, server_gpus=1)


def test_costs_of_a_7b_on_h100_by_hand() -> None:
    assumed = Assumed()
    speed = server_speed(QWEN_7B, H100, 1, 300, 4000, assumed)
    weights, embedding = 2 * 7_615_616_512, 2 * 152_064 * 3584  # the embedding is looked up, not read
    assert speed.step_s == pytest.approx(
        (weights - embedding) / (3.35e12 * assumed.efficiency.decode) + assumed.efficiency.decode_overhead_ms / 1e3
    )
    assert speed.kv_token_s == pytest.approx(2 * 2 * 28 * 4 * 128 / (3.35e12 * assumed.efficiency.decode))
    # A pass of 8192 tokens, and logits of 256 samples, stand beside the weights.
    passes = 2 * 8192 * 3 * (3584 + 18944) + 4 * 256 * 152_064
    room = 0.85 * (H100.memory_bytes - weights - passes)
    assert trtllm_kv_room(QWEN_7B, H100, assumed.trtllm) == pytest.approx(room)
    assert speed.slots == math.floor(room / (2 * 2 * 28 * 4 * 128 * 4300))
    assert refit_s(QWEN_7B, H100, 100, assumed) == pytest.approx(
        weights / (50e9 * assumed.efficiency.network) + 100 * assumed.server_s
    )


def test_the_passes_are_the_flops_of_every_length() -> None:
    assumed = Assumed()
    actor = make_setup(QWEN_7B, H100, SPLIT, 0, 300, 700, 16384, "full", assumed).actor
    peak = peak_tflops(H100.device, "bfloat16")
    assert peak is not None
    for tokens in (1, 2, 700, 4000):
        train = train_flops(QWEN_7B, 300, tokens) + recomputed_flops(QWEN_7B, 300, tokens, "full")
        wanted = train / (4 * peak * 1e12 * assumed.efficiency.train)
        assert float(actor.train.seconds(np.array(tokens))) == pytest.approx(wanted)
        wanted = log_prob_flops(QWEN_7B, 300, tokens) / (4 * peak * 1e12 * assumed.efficiency.log_probs)
        assert float(actor.log_probs.seconds(np.array(tokens))) == pytest.approx(wanted)


def test_gradients_and_weights_of_a_ring() -> None:
    assumed = Assumed(hop_s=0.0)
    mine = 7_615_616_512 / 4
    network = 6 * mine * 3 / 4 / (2 * 50e9 * assumed.efficiency.network)  # two of its ranks on each of two nodes
    assert collective_s(QWEN_7B, H100, replace(SPLIT, actor=16), assumed) == pytest.approx(network)
    assert collective_s(QWEN_7B, H100, replace(SPLIT, actor=4), assumed) == 0.0
    node = 6 * mine / 2 / (450e9 * assumed.efficiency.network)
    assert collective_s(QWEN_7B, H100, SPLIT, assumed) == pytest.approx(node)


def test_splits_and_servers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole servers of 3"):
        replace(SPLIT, server_gpus=3)
    with pytest.raises(ValueError, match="whole models of 4 × 4"):
        replace(SPLIT, pipeline=4)
    with pytest.raises(ValueError, match="more GPUs"):
        server_speed(replace(QWEN_7B, layers=280), H100, 1, 300, 4000, Assumed())


def test_colocated_servers_are_on_the_actors_gpus() -> None:
    assumed = Assumed()
    setup = make_setup(QWEN_7B, H100, Split(16, 0, 4, 1, 1), 0, 300, 700, 16384, "full", assumed)
    assert (setup.colocated, setup.servers, setup.actor.data) == (True, 16, 4)
    # A 16th of float32 weights and Adam's two moments, there and back.
    there_and_back = 2 * 12 * 7_615_616_512 / 16 / (64e9 * assumed.efficiency.network)
    assert setup.switch_s == pytest.approx(there_and_back)


def test_it_needs_no_torch() -> None:
    code = "import sys, recipes.planning.simulation.costs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
