"""Bytes by group and link: closed forms, and the rank order that says which link it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_helpers import APART, SEVEN, THIRTY_TWO, URL, job_of

from recipes.planning.communication import (
    all_reduce,
    bandwidth,
    layer_traffic,
    link,
    log_prob_passes,
    positions_of_rank,
    ring,
    traffic,
)
from recipes.planning.interface import Job
from recipes.planning.parameters import count
from recipes.planning.weights import stage_parameters


def sent(job: Job) -> dict[tuple[str, str], float]:
    return {(one.what, one.group): one.bytes for one in traffic(job)}


@given(st.integers(1, 4096), st.integers(1, 2**40))
def test_rings(ranks: int, size: int) -> None:
    assert ring(size, ranks) == pytest.approx(size * (1 - 1 / ranks))
    assert all_reduce(size, ranks) == pytest.approx(2 * size * (ranks - 1) / ranks)


def test_a_layer_all_reduces_the_residual_stream_twice() -> None:
    job = job_of(*SEVEN)
    # 2 all-reduces × 2 (4 - 1) / 4 × 1000 positions × 3584 × 2 bytes
    assert layer_traffic(job.shape, 1000, 4, 2) == 2 * 1.5 * 1000 * 3584 * 2
    assert layer_traffic(job.shape, 1000, 1, 2) == 0


def test_tensor_parallel_traffic_of_the_7b_recipe() -> None:
    job = job_of(*SEVEN)  # TP 4, DP 2, sequence parallel, full recompute
    positions = 1024 * (300 + 700 - 1) / 2
    assert positions_of_rank(job) == positions
    forward = 28 * layer_traffic(job.shape, positions, 4, 2)
    found = sent(job)
    # Forward, forward again, backward, and the inputs gathered once more for the weights' gradients: of a layer's four
    # all-gathers and reduce-scatters two, before QKV and before the MLP.
    assert found["train: activations", "TP"] == pytest.approx(3.5 * forward)
    assert found["log_probs: activations", "TP"] == pytest.approx(forward)
    plain = sent(job_of(*SEVEN, "actor.recompute=none", "actor.sequence_parallel=false"))
    assert plain["train: activations", "TP"] == pytest.approx(2 * forward)


def test_data_parallel_traffic_of_the_7b_recipe() -> None:
    held = count(stage_parameters(job_of(*SEVEN), 0))
    shared = sent(job_of(*SEVEN))
    assert shared["train: gradients", "DP"] == pytest.approx(held * 4 / 2)
    assert shared["train: weights", "DP"] == pytest.approx(held * 2 / 2)
    whole = sent(job_of(*SEVEN, "actor.distributed_optimizer=false"))
    assert whole["train: gradients", "DP"] == pytest.approx(held * 4)
    assert ("train: weights", "DP") not in whole
    twice = sent(job_of(*SEVEN, "updates_per_rollout=2"))
    assert twice["train: gradients", "DP"] == pytest.approx(2 * shared["train: gradients", "DP"])
    assert not [
        what for what, group in sent(job_of(*SEVEN, "nodes.gpus_per_node=4", "rollout.servers=4")) if group == "DP"
    ]


def test_pipeline_traffic_of_the_32b_recipe() -> None:
    job = job_of(*THIRTY_TWO)  # TP 4 × PP 4 × DP 2, sequence parallel
    once = positions_of_rank(job) * 5120 * 2 / 4
    assert sent(job)["train: activations, gradients", "PP"] == pytest.approx(2 * once)
    assert sent(job)["log_probs: activations", "PP"] == pytest.approx(once)
    two = sent(job_of(*THIRTY_TWO, "actor.pipeline_parallel=2", "nodes.actor=2", "rollout.servers=4"))
    # With two stages each sends one way alone: activations or gradients.
    assert two["train: activations, gradients", "PP"] == pytest.approx(once)


def test_a_refit_carries_the_whole_model_in_bfloat16() -> None:
    found = sent(job_of(*SEVEN, *APART, "nodes.rollout=1"))
    assert found["refit: to rollout servers", "refit"] == 2 * 7_615_616_512
    assert found["refit: gather", "TP"] == pytest.approx(2 * 7_615_616_512 * 3 / 4)


@pytest.mark.parametrize(
    ("words", "links"),
    [
        (SEVEN, {"TP": "node", "DP": "node", "PP": "node", "refit": "node"}),
        # 16 ranks, TP 4: a data-parallel group has ranks 0, 4, 8, 12 on two nodes.
        ((*SEVEN, "nodes.actor=2"), {"TP": "node", "DP": "network", "PP": "node", "refit": "network"}),
        # 32 ranks, TP 4, DP 2: ranks 0 and 4 share a node, stages are 8 apart.
        (THIRTY_TWO, {"TP": "node", "DP": "node", "PP": "network", "refit": "network"}),
        ((*THIRTY_TWO, "nodes.actor=8", "nodes.gpus_per_node=4"), {"TP": "node", "DP": "network", "PP": "network"}),
        (
            (*THIRTY_TWO, "nodes.actor=16", "nodes.gpus_per_node=2", "rollout.trtllm.tensor_parallel=2"),
            {"TP": "network", "DP": "network"},
        ),
        # 24 ranks, TP 2, DP 3: stages of 6 ranks, of which every second one lies on two nodes.
        (
            (*SEVEN, "nodes.actor=3", "actor.tensor_parallel=2", "actor.pipeline_parallel=4"),
            {"TP": "node", "DP": "network"},
        ),
        ((*SEVEN, *APART, "nodes.rollout=1"), {"TP": "node", "DP": "node", "refit": "network"}),
        ((*SEVEN, *URL, "rollout.colocated=false"), {"TP": "node", "DP": "node", "refit": "network"}),
    ],
)
def test_links_follow_megatrons_rank_order(words: tuple[str, ...], links: dict[str, str]) -> None:
    job = job_of(*words)
    assert {group: link(job, group) for group in links} == links


def test_a_ring_over_nodes_uses_the_adapters_of_its_ranks_on_a_node() -> None:
    assert bandwidth(job_of(*SEVEN), "DP") == 450e9
    # TP 4 on 8 GPUs: two ranks of a data-parallel group on each node.
    assert bandwidth(job_of(*SEVEN, "nodes.actor=2"), "DP") == 2 * 50e9
    # TP 1: all eight ranks of a node are in one group; their adapters together are not faster than NVLink here.
    alone = (*SEVEN, "nodes.actor=2", "actor.tensor_parallel=1", "actor.sequence_parallel=false")
    assert bandwidth(job_of(*alone), "DP") == 8 * 50e9
    # Two pipeline stages of four share a node here, but a stage sends to one GPU.
    assert bandwidth(job_of(*THIRTY_TWO, "nodes.actor=2", "rollout.servers=4"), "PP") == 50e9


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ((), 1),
        (("algorithm.kl=0",), 0),
        (("updates_per_rollout=2",), 2),
        (("updates_per_rollout=2", "algorithm.kl=0"), 1),
        (("algorithm.kl_in=reward",), 2),
    ],
)
def test_log_prob_passes_are_those_of_the_step(words: tuple[str, ...], passes: int) -> None:
    assert log_prob_passes(job_of(*SEVEN, *words)) == passes
