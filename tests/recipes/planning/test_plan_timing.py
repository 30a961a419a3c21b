"""Seconds of a step: closed forms, and what must never make a step faster or slower."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_helpers import APART, SEVEN, THIRTY_TWO, URL, configured, job_of

from conf.plan import EfficiencyConfig
from crossthink.errors import ConfigError
from recipes.models import flops
from recipes.planning.generation import Server, decode_costs, decode_seconds, server_of, sharing_servers
from recipes.planning.gpus import GPUS, gpu_of, peak_flops
from recipes.planning.interface import Job
from recipes.planning.lengths import busy_steps, longest_share, response_lengths
from recipes.planning.memory import memory
from recipes.planning.parameters import all_parameters, count
from recipes.planning.passes import HALF_SPEED_ROWS, bubble_share, micro_batches, pass_time, work_of
from recipes.planning.rollout_memory import trtllm_generation, trtllm_weights
from recipes.planning.timing import PARTS, adam_seconds, estimate, step_seconds, times, train_passes
from recipes.planning.weights import stage_parameters

PERFECT = EfficiencyConfig(
    train=1.0, log_probs=1.0, prefill=1.0, decode=1.0, decode_overhead_ms=0.0, fp8=1.0, network=1.0
)


def seconds(job: Job, efficiency: EfficiencyConfig = PERFECT) -> dict[tuple[str, str], float]:
    return {(phase.phase, item.name): item.amount for phase in times(job, efficiency) for item in phase.items}


def step(*words: str) -> float:
    config = configured(*words)
    return estimate(job_of(*words), config.efficiency).step_s


# Lengths and occupancy


@given(st.integers(1, 4000), st.floats(0, 1.5), st.integers(1, 500))
@settings(deadline=None, max_examples=50)
def test_lengths_have_the_mean_that_was_asked_for(mean: int, spread: float, count: int) -> None:
    found = response_lengths(mean, spread, 4000, count)
    assert len(found) == count and max(found) <= 4000 and min(found) >= 1
    assert list(found) == sorted(found, reverse=True)
    # Each is rounded; none is shorter than one token.
    assert sum(found) / count == pytest.approx(mean, abs=1.0)


def test_lengths_without_a_spread_are_all_the_mean_and_a_spread_makes_a_tail() -> None:
    assert set(response_lengths(700, 0.0, 4000, 100)) == {700}
    assert response_lengths(700, 0.8, 4000, 1000)[0] == 4000
    logs = [math.log(length) for length in response_lengths(700, 0.3, 100_000, 20_001)]
    mean = sum(logs) / len(logs)
    assert math.sqrt(sum((one - mean) ** 2 for one in logs) / len(logs)) == pytest.approx(0.3, abs=0.01)
    assert math.exp(mean) == pytest.approx(700 * math.exp(-(0.3**2) / 2), rel=0.01)  # a lognormal's median


def test_occupancy_counts_the_slots_that_are_still_busy() -> None:
    assert busy_steps([5, 2, 2, 1], slots=4) == [(1, 4), (1, 3), (3, 1)]
    assert busy_steps([3] * 6, slots=3) == [(6, 3)]
    assert busy_steps([3] * 7, slots=3) == [(6, 3), (3, 1)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 12))
def test_every_token_is_drawn_once_and_no_more_slots_are_busy_than_there_are(lengths: list[int], slots: int) -> None:
    found = busy_steps(lengths, slots)
    assert sum(steps * busy for steps, busy in found) == sum(lengths)
    assert max(busy for _, busy in found) == min(slots, len(lengths))
    assert sum(steps for steps, _ in found) >= max(max(lengths), math.ceil(sum(lengths) / slots))


def test_the_server_with_the_longest_sample_is_the_one_that_counts() -> None:
    assert longest_share([9, 8, 7, 6, 5], 2) == [9, 7, 5]
    assert sharing_servers(32, 128) == 32
    assert sharing_servers(32, 100) == 25  # some have four prompts, as if 25 servers had four each
    assert sharing_servers(200, 128) == 128


# Rollout


def decoding(server: Server, lengths: list[int], efficiency: EfficiencyConfig = PERFECT) -> tuple[float, float]:
    costs = decode_costs(job_of(*SEVEN).shape, GPUS["h100"], server, 50, efficiency)
    return decode_seconds(costs, server.slots, lengths, 50)


def test_decoding_is_bound_by_the_memory_where_few_samples_run() -> None:
    server = Server(1, "bfloat16", 15e9, 1e5, slots=8, shares_prompts=True)
    stepping, cached = decoding(server, [100] * 8)
    assert stepping == pytest.approx(100 * 15e9 / 3.35e12)
    # 99 of 100 tokens are read back; the n-th of them sees the 50 of the prompt and n of its own.
    assert cached == pytest.approx(8 * sum(50 + n for n in range(1, 100)) * 1e5 / 3.35e12)
    slower, half = decoding(server, [100] * 8, replace(PERFECT, decode=0.5))
    assert (slower, half) == (pytest.approx(2 * stepping), pytest.approx(2 * cached))
    late, _ = decoding(server, [100] * 8, replace(PERFECT, decode_overhead_ms=2.0))
    assert late == pytest.approx(stepping + 0.2)


def test_decoding_is_bound_by_the_products_where_many_samples_run() -> None:
    shape = job_of(*SEVEN).shape
    stepping, _ = decoding(Server(1, "bfloat16", 15e9, 0.0, slots=4096, shares_prompts=True), [10] * 4096)
    products = flops.body_flops(shape, 1, 0) + flops.head_flops(shape, 1)
    assert stepping == pytest.approx(10 * 4096 * products / 989.4e12)


def test_servers_of_each_kind() -> None:
    trtllm = server_of(job_of(*THIRTY_TWO))
    assert (trtllm.gpus, trtllm.number_format) == (4, "bfloat16")
    head = 152064 * 5120
    assert trtllm.weight_bytes == 2 * (32_763_876_352 - head)  # the embedding is looked up, not read
    own = server_of(job_of("recipe=crossthink_7b", "actor=megatron", "rollout=local", "nodes.rollout=0"))
    assert (own.gpus, own.number_format, own.slots) == (1, "float32", 512)
    assert own.kv_bytes == 28 * 2 * 4 * 128 * 4
    words = (*SEVEN, "rollout.trtllm.fp8_weights=true", "rollout.trtllm.kv_cache_dtype=fp8")
    fp8 = server_of(job_of(*words))
    assert (fp8.number_format, fp8.kv_bytes) == ("fp8", server_of(job_of(*SEVEN)).kv_bytes / 2)
    held = trtllm_weights(job_of(*words)).amount
    assert fp8.weight_bytes == pytest.approx(held - 2 * 152064 * 3584)  # the head stays in bfloat16


def test_slots_are_what_the_cache_of_the_memory_table_holds() -> None:
    words = (*THIRTY_TWO, "rollout.trtllm.max_batch_size=100000")
    job = job_of(*words)
    server, cache = server_of(job), trtllm_generation(job)[0].amount
    assert server.slots == int(4 * cache / (server.kv_bytes * 1000))
    assert server_of(job_of(*words, "gpu=h200")).slots > server.slots


def test_a_group_reads_its_prompt_once() -> None:
    words = (*SEVEN, "rollout.servers=8")
    once = seconds(job_of(*words))["rollout", "prefill"]
    assert once == pytest.approx(16 * flops.prefill_flops(job_of(*words).shape, 300) / 989.4e12)
    again = seconds(job_of(*words, "rollout.trtllm.prefix_reuse=false"))["rollout", "prefill"]
    assert again == pytest.approx(8 * once)


@pytest.mark.parametrize(
    ("words", "phase", "makes_room"),
    [
        (("rollout=local", "rollout.servers=0", "rollout.colocated=false"), "actor", True),
        (("rollout.colocated=true",), "actor", True),
        (("rollout.colocated=false",), "actor", False),
        ((*URL, "rollout.colocated=false"), "rollout", False),
        ((*URL, "rollout.colocated=true"), "actor", True),
        ((*APART, "nodes.rollout=1"), "rollout", False),
    ],
)
def test_adam_moves_where_the_memory_says_so(words: tuple[str, ...], phase: str, makes_room: bool) -> None:
    """As `recipes.rl.step.room_for_rollouts` has it: for servers elsewhere nothing makes room."""
    job = job_of(*SEVEN, "actor.offload=true", *words)
    assert job.makes_room is makes_room
    assert (("rollout", "Adam's state to host memory") in seconds(job)) is makes_room
    (rollout,) = (one for one in memory(job) if (one.phase, one.stage) == ("rollout", 0))
    assert ("Adam moments" not in {item.name for item in rollout.items}) is makes_room
    assert times(job, PERFECT)[0].on == phase


# Training


def test_training_takes_the_flops_of_the_model_and_of_recomputation() -> None:
    one = ("recipe=crossthink_7b", "actor=megatron", "actor.tensor_parallel=1", "actor.sequence_parallel=false",
           "actor.fp8=off", "nodes.gpus_per_node=1", "nodes.rollout=0", "rollout.servers=1",
           "actor.reference=resident", "actor.offload=false",
           "length_spread=0", "rollout.colocated=true", "micro_batch_tokens=1024000")  # fmt: skip
    job = job_of(*one)
    exact = 1024 * flops.train_flops(job.shape, 300, 700)
    again = 1024 * flops.recomputed_flops(job.shape, 300, 700, "full")
    rows = 1024 * 1000
    found = seconds(job)
    per_flop = (rows + HALF_SPEED_ROWS) / rows / 989.4e12
    assert found["train", "forward, backward"] == pytest.approx(exact * per_flop)
    assert found["train", "recomputation"] == pytest.approx(again * per_flop)
    assert found["log_probs", "forward passes"] == pytest.approx(exact / 3 * per_flop)
    assert 3 * work_of(job).all == exact
    selective = seconds(job_of(*one, "actor.recompute=selective"))["train", "recomputation"]
    pairs = 1024 * flops.recomputed_flops(job.shape, 300, 700, "selective")
    assert selective == pytest.approx(pairs * per_flop)
    whole = estimate(job, PERFECT)
    train = next(phase for phase in whole.phases if phase.phase == "train")
    assert whole.mfu == pytest.approx(exact / train.total / 989.4e12)


def test_a_pipeline_waits_for_its_bubble_and_its_slowest_stage() -> None:
    assert bubble_share(4, 32) == 3 / 32
    job = job_of(*THIRTY_TWO)
    assert micro_batches(job, 1) == math.ceil(512 * 1000 / 16384) == 32
    found = train_passes(job, PERFECT)
    assert found.bubble == pytest.approx(found.busy * 3 / 32)
    even = pass_time(job, 1.0, PERFECT, head=0.0).busy
    uneven = job_of(*THIRTY_TWO, "actor.pipeline_first_layers=10", "actor.pipeline_last_layers=18")
    assert pass_time(uneven, 1.0, PERFECT, head=0.0).busy == pytest.approx(even * 18 / 16)


def test_fp8_speeds_up_the_linear_layers_alone() -> None:
    words = (*SEVEN, "length_spread=0")
    work = work_of(job_of(*words))
    plain = pass_time(job_of(*words, "actor.fp8=off"), 1.0, PERFECT).busy
    fp8 = pass_time(job_of(*words), 1.0, PERFECT).busy
    assert fp8 / plain == pytest.approx((work.linear * 989.4 / 1978.9 + work.attention + work.head) / work.all)
    edges = pass_time(job_of(*words, "actor.fp8=current", "actor.fp8_bf16_layers=14"), 1.0, PERFECT).busy
    assert edges == pytest.approx(plain)
    assert pass_time(job_of(*words), 1.0, PERFECT, fp8=False).busy == pytest.approx(plain)


def test_small_micro_batches_compute_slower() -> None:
    def busy(*words: str) -> float:
        return train_passes(job_of(*SEVEN, *words), PERFECT).busy

    assert busy("micro_batch_tokens=1024") > busy("micro_batch_tokens=4096") > busy("micro_batch_tokens=32768")


def test_adam_reads_and_writes_its_share() -> None:
    job = job_of(*SEVEN)
    held = count(stage_parameters(job, 0)) / job.data
    # Master weight and two moments read and written, gradient read, bfloat16 weight written.
    assert adam_seconds(job, PERFECT) == pytest.approx(held * (6 * 4 + 4 + 2) / 3.35e12)
    assert adam_seconds(job_of(*SEVEN, "updates_per_rollout=4"), PERFECT) == pytest.approx(
        4 * adam_seconds(job, PERFECT)
    )


def test_what_the_passes_hide_is_not_counted_twice() -> None:
    hidden = seconds(job_of(*SEVEN))
    open_ = seconds(job_of(*SEVEN, "actor.overlap=false"))
    held = count(stage_parameters(job_of(*SEVEN), 0))
    assert open_["train", "DP: gradients"] == pytest.approx(held * 4 / 2 / 450e9)
    assert hidden["train", "DP: gradients"] == hidden["train", "DP: weights"] == 0.0
    # One micro-batch is too short to hide the reduction over a slow network.
    slow = replace(PERFECT, network=0.01)
    partly = seconds(job_of(*SEVEN, "nodes.actor=2"), slow)["train", "DP: gradients"]
    wholly = seconds(job_of(*SEVEN, "nodes.actor=2", "actor.overlap=false"), slow)["train", "DP: gradients"]
    assert 0 < partly < wholly


def test_a_refit_is_the_longer_of_gather_and_send() -> None:
    found = seconds(job_of(*SEVEN, *APART, "nodes.rollout=1"))
    whole = 2 * 7_615_616_512
    gather = whole * 3 / 4 / 450e9
    assert found["refit", "gather over TP, broadcast over PP"] == pytest.approx(gather)
    assert found["refit", "to rollout servers"] == pytest.approx(whole / 50e9 - gather)


def test_the_reference_beside_the_rollout() -> None:
    words = (*APART, "nodes.rollout=1")
    alone = seconds(job_of(*SEVEN, *words))
    beside = seconds(job_of(*SEVEN, *words, "rollout.overlap_log_probs=true"))
    whole = sum(value for (phase, _), value in alone.items() if phase == "log_probs")
    assert beside["log_probs", "beside the rollout"] == pytest.approx(-whole * (PARTS - 1) / PARTS)


def test_parts_of_the_overlap_are_those_of_the_loop() -> None:
    from recipes.rl.step import PARTS_AHEAD

    assert PARTS == PARTS_AHEAD


# The step


def test_lag_one_takes_the_longer_side_and_the_refit() -> None:
    spent = {"rollout": 10.0, "reward": 1.0, "log_probs": 2.0, "train": 4.0, "refit": 0.5}
    assert step_seconds(spent, 0) == (17.5, 0.0)
    assert step_seconds(spent, 1) == (11.5, 6.0 - 11.0)
    assert step_seconds({**spent, "train": 14.0}, 1) == (16.5, 16.0 - 11.0)


def test_lag_one_is_never_slower_than_lag_zero_and_totals_follow_the_step() -> None:
    apart = (*SEVEN, *APART, "nodes.rollout=1", "algorithm.importance_cap=2.0")
    config = configured(*apart, "rollout.lag=1")
    found = estimate(job_of(*apart, "rollout.lag=1"), config.efficiency)
    assert found.step_s < step(*apart)
    assert found.run_hours == pytest.approx(found.step_s * 650 / 3600)
    assert (found.gpus, found.tokens) == (16, 1024 * 1000)
    assert found.gpu_hours == pytest.approx(16 * found.run_hours)
    assert found.tokens_per_second_per_gpu == pytest.approx(found.tokens / found.step_s / 16)
    assert 0 < found.mfu < 1


def test_ppo_adds_the_critic() -> None:
    grpo, ppo = seconds(job_of(*SEVEN)), seconds(job_of(*SEVEN, "algorithm=ppo"))
    assert set(ppo) - set(grpo) == {
        ("values", "critic: forward passes"),
        ("train", "critic: forward, backward, recomputation"),
    }


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        ("mean_response_tokens=800", "mean_response_tokens=600"),
        ("mean_prompt_tokens=500", "mean_prompt_tokens=300"),
        ("nodes.actor=2", "nodes.actor=4"),
        ("nodes.actor=4", "nodes.actor=8"),
        ("gpu=h100", "gpu=h200"),
        ("gpu=h200", "gpu=b200"),
        ("actor.recompute=full", "actor.recompute=selective"),
        ("actor.recompute=selective", "actor.recompute=none"),
        ("actor.fp8=off", "actor.fp8=delayed"),
        ("updates_per_rollout=4", "updates_per_rollout=1"),
        ("length_spread=0.8", "length_spread=0.4"),
        ("algorithm.kl=0.001", "algorithm.kl=0"),
    ],
)
@pytest.mark.parametrize("base", [SEVEN, THIRTY_TWO])
def test_what_makes_a_step_slower(base: tuple[str, ...], slower: str, faster: str) -> None:
    nodes = () if slower.startswith("nodes") else ("nodes.actor=4",)
    words = (*base, "rollout.servers=4", *nodes)
    assert step(*words, slower) > step(*words, faster)


@given(st.integers(50, 3900), st.integers(1, 200), st.sampled_from([8, 64, 512]))
@settings(deadline=None, max_examples=20)
def test_more_tokens_never_take_less_time(mean: int, more: int, slots: int) -> None:
    job = job_of(*SEVEN, f"rollout.trtllm.max_batch_size={slots}")
    longer = replace(job, response=min(4000, mean + more))
    efficiency = EfficiencyConfig()
    assert estimate(replace(job, response=mean), efficiency).step_s <= estimate(longer, efficiency).step_s * (1 + 1e-9)


# GPUs


def test_gpus_and_their_peaks() -> None:
    assert {name: peak_flops(gpu, "bfloat16") / 1e12 for name, gpu in GPUS.items()} == {
        "a100": 312.0, "h100": 989.4, "h200": 989.4, "b200": 2250.0,
    }  # fmt: skip
    assert gpu_of("cpu") is None
    with pytest.raises(ConfigError, match=r"gpu=h800 is not allowed\. Allowed: a100, h100, h200, b200, cpu\."):
        gpu_of("h800")
    with pytest.raises(ConfigError, match=r"gpu=a100 has no fp8 matrix products\. Set actor\.fp8=off"):
        job_of(*SEVEN, "gpu=a100")


def test_parameters_of_the_published_models() -> None:
    assert all_parameters(job_of(*SEVEN).shape) == 7_615_616_512
    assert all_parameters(job_of(*THIRTY_TWO).shape) == 32_763_876_352
