"""The simulation of steps: exact times where they can be said, and what must hold for every batch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.actors.packing import shares
from recipes.planning.simulation.events import MOST_SAMPLES, SHARE, Batch, Dealer, ServerSpeed, generate
from recipes.planning.simulation.load import Load
from recipes.planning.simulation.steps import (
    ActorSpeed,
    SamplePass,
    Setup,
    Stragglers,
    one_after_another,
    phase_s,
    simulate,
)
from recipes.rollout.client import dealing
from recipes.rollout.interface import Request, SamplingParams

SPEED = ServerSpeed(slots=10_000, prefill_s=0.5, step_s=0.01, sample_s=0.001, kv_token_s=1e-5)
PER_SAMPLE = ServerSpeed(slots=10_000, prefill_s=0.0, step_s=0.0, sample_s=0.001, kv_token_s=0.0)
ACTOR = ActorSpeed(8, 4, 1, 1024, 0.0, SamplePass(0.1), SamplePass(0.3), 0.25)
SETUP = Setup(lag=0, colocated=False, servers=2, server=SPEED, actor=ACTOR, refit_s=1.0, share=math.inf)


def batch_of(lengths: object, prompt_tokens: int = 100, longest: int | None = None) -> Batch:
    table = np.array(lengths)
    return Batch(table, prompt_tokens, np.full_like(table, longest or table.max()))


def random_batch(seed: int, prompts: int, samples: int = 4, longest: int = 60) -> Batch:
    return batch_of(np.random.default_rng(seed).integers(1, longest + 1, (prompts, samples)), longest=longest)


# Generation of a batch.


def test_one_server_with_equal_lengths_takes_what_the_sum_says() -> None:
    prompts, samples, tokens, prompt = 3, 4, 20, 100
    made = generate(batch_of(np.full((prompts, samples), tokens), prompt), SPEED, [1.0])
    running = prompts * samples
    cached = running * (tokens * prompt + tokens * (tokens - 1) / 2)
    expected = prompts * 0.5 + tokens * (0.01 + 0.001 * running) + 1e-5 * cached
    assert made.end == pytest.approx(expected, rel=1e-12)
    assert (made.samples == made.end).all()


def test_a_server_with_too_few_slots_takes_samples_in_turns() -> None:
    made = generate(batch_of([[10, 10], [10, 10]]), replace(PER_SAMPLE, slots=2), [1.0])
    assert made.samples.ravel().tolist() == pytest.approx([0.02, 0.02, 0.04, 0.04])


def test_a_free_slot_is_taken_at_once() -> None:
    speed = ServerSpeed(slots=2, prefill_s=0.0, step_s=1.0, sample_s=0.0, kv_token_s=0.0)
    made = generate(batch_of([[3, 9, 4, 2]]), speed, [1.0])
    assert made.samples.tolist() == [[3.0, 9.0, 7.0, 9.0]]


def test_a_short_sample_leaves_the_rest_faster() -> None:
    made = generate(batch_of([[5, 15]]), PER_SAMPLE, [1.0])
    assert made.samples.ravel().tolist() == pytest.approx([0.01, 0.02])  # 5 steps of two, 10 of one


@pytest.mark.parametrize("servers", [1, 2, 4, 8, 16])
def test_equal_servers_share_work_that_divides(servers: int) -> None:
    batch = batch_of(np.full((16, 8), 50))
    alone = generate(batch, PER_SAMPLE, [1.0]).end
    assert generate(batch, PER_SAMPLE, [1.0] * servers).end == pytest.approx(alone / servers)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 5), st.integers(1, 9), st.floats(0.2, 1.0))
@settings(deadline=None)
def test_every_token_is_drawn_once_and_the_same_again(
    seed: int, prompts: int, servers: int, slots: int, share: float
) -> None:
    batch = random_batch(seed, prompts)
    factors = [1.0 + 0.3 * (n % 2) for n in range(servers)]
    speed = replace(SPEED, slots=slots)
    made, again = (generate(batch, speed, factors, share) for _ in range(2))
    assert made.tokens.sum() == batch.tokens
    assert (made.samples > 0).all()
    assert made.servers.max() == made.end
    assert (made.samples == again.samples).all()
    # Nobody is faster than alone on the fastest server, and all together not than without waiting for each other.
    work = batch.lengths * (speed.step_s + speed.sample_s + speed.kv_token_s * batch.prompt_tokens)
    assert (made.samples >= work * (1 - 1e-9)).all()


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 4))
@settings(deadline=None)
def test_samples_never_end_later_on_faster_servers(seed: int, prompts: int, slots: int) -> None:
    """On one server: with several, dealing by who is done first may turn out worse (Graham's anomaly)."""
    batch = random_batch(seed, prompts)
    slow, fast = (generate(batch, replace(SPEED, slots=slots), [factor]).samples for factor in (1.5, 1.0))
    assert slow == pytest.approx(1.5 * fast)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 50))
@settings(deadline=None)
def test_more_servers_are_never_slower_where_all_groups_are_dealt_at_once(
    prompts: int, servers: int, tokens: int
) -> None:
    batch = batch_of(np.full((prompts, 4), tokens))
    ends = [generate(batch, SPEED, [1.0] * n, share=math.inf).end for n in (servers, servers + 1)]
    assert ends[1] <= ends[0] * (1 + 1e-12)


def test_a_share_below_one_generates_two_groups_a_server_one_after_the_other() -> None:
    """Half of the groups wait while the weights are read for the others: 0.75 of two groups is one."""
    speed = ServerSpeed(100, 0.0, 1.0, 0.0, 0.0)
    batch = batch_of(np.full((4, 8), 10))
    assert generate(batch, speed, [1.0, 1.0]).end == 20.0
    assert generate(batch, speed, [1.0, 1.0], share=math.inf).end == 10.0


def test_a_slow_server_gets_less() -> None:
    made = generate(batch_of(np.full((40, 2), 50)), PER_SAMPLE, [1.0, 4.0])
    assert made.tokens[0] > 1.5 * made.tokens[1]


@given(st.integers(1, 500), st.integers(0, 5000), st.floats(0, 2), st.floats(0, 1e-3), st.floats(1e-4, 0.1))
def test_steps_until_is_the_first_step_that_reaches_the_time(
    samples: int, cached: int, seconds: float, kv_token_s: float, step_s: float
) -> None:
    speed = ServerSpeed(1, 0.0, step_s, 1e-5, kv_token_s)
    steps = speed.steps_until(seconds, samples, cached)
    assert speed.decode_s(steps, samples, cached) >= seconds
    assert steps == 0 or speed.decode_s(steps - 1, samples, cached) < seconds


def test_steps_until_where_the_cache_grows_faster_than_it_began() -> None:
    """linear is below 0 there, and its square all but the discriminant: a difference of like numbers."""
    speed = ServerSpeed(1, 0.0, 1e-4, 1e-5, 1e-3)
    steps = speed.steps_until(1e-12, 500, 0)
    assert steps >= 1 and speed.decode_s(steps, 500, 0) >= 1e-12


@pytest.mark.parametrize(
    ("batch", "speed", "factors", "named"),
    [
        (batch_of([[1]]), SPEED, [], "at least one server"),
        (batch_of([[1]]), SPEED, [0.0], "every factor above 0"),
        (batch_of([[0]], longest=1), SPEED, [1.0], "the shortest is 0"),
        (batch_of([[5]], longest=4), SPEED, [1.0], "budget"),
        (batch_of([[1]]), replace(SPEED, slots=0), [1.0], "slots=0"),
        (batch_of([[1]]), replace(PER_SAMPLE, sample_s=0.0), [1.0], "must take time"),
    ],
)
def test_what_cannot_be_is_refused(batch: Batch, speed: ServerSpeed, factors: list[float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        generate(batch, speed, factors)


# Dealing, held to the trainer's client.


def test_the_constants_of_dealing_are_the_clients() -> None:
    assert (SHARE, MOST_SAMPLES) == (dealing.SHARE, dealing.MOST_SAMPLES)


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6), st.booleans())
@settings(deadline=None)
def test_groups_go_to_the_servers_that_the_client_sends_them_to(
    seed: int, prompts: int, servers: int, own_budgets: bool
) -> None:
    batch = random_batch(seed, prompts)
    if own_budgets:
        batch = replace(batch, budgets=batch.lengths)
    names = [str(n) for n in range(servers)]
    requests = [
        Request((7,) * batch.prompt_tokens, p, g, int(batch.budgets[p, g])) for p in range(prompts) for g in range(4)
    ]
    theirs = dealing.Dealing(requests, SamplingParams(1.0, 1.0, 60, (), 100, 0, 0), names)
    ours = Dealer(batch, servers)
    held: list[tuple[int, int, int]] = []
    draw = np.random.default_rng(seed)
    while True:
        dealt = ours.deal()
        wanted = {
            (int(name), group[0] // 4) for name, groups in theirs.deal(names, servers).items() for group in groups
        }
        assert set(dealt) == wanted
        held += [(server, group, sample) for server, group in dealt for sample in range(4)]
        if not held:
            break
        server, group, sample = held.pop(int(draw.integers(len(held))))
        ours.finish(server, group, sample)
        assert theirs.finish(str(server), group * 4 + sample)
    assert theirs.left == 0


def test_a_server_takes_no_more_samples_than_the_client_gives_it() -> None:
    batch = batch_of(np.full((3, MOST_SAMPLES // 2), 1), prompt_tokens=0)
    assert Dealer(batch, 1).deal() == [(0, 0), (0, 1)]


# Steps.

EQUAL = batch_of(np.full((8, 4), 20), 100)  # 32 samples: 8 on each of 4 data-parallel ranks
GENERATION = 4 * 0.5 + 20 * (0.01 + 0.001 * 16) + 1e-5 * 16 * (20 * 100 + 190)  # 4 groups on each of 2 servers
LOG_PROBS, TRAIN = 8 * 0.1, 8 * 0.3 + 0.25


def test_lag_0_does_one_thing_after_the_other() -> None:
    for one in simulate(SETUP, [EQUAL] * 3, 0):
        assert one.total == pytest.approx(GENERATION + LOG_PROBS + TRAIN + 1.0)
        assert (one.rollout, one.reward, one.switch) == (pytest.approx(GENERATION), pytest.approx(0), 0)
        assert one.actor_idle == pytest.approx(GENERATION / one.total)
        assert one.rollout_idle == pytest.approx((LOG_PROBS + TRAIN) / one.total)
        assert one.tokens == EQUAL.tokens


@pytest.mark.parametrize("slower", ["rollout", "train"])
def test_lag_1_takes_as_long_as_the_slower_side_and_the_refit(slower: str) -> None:
    train = replace(ACTOR, collective_s=100.0) if slower == "train" else ACTOR
    setup = replace(SETUP, lag=1, actor=train)
    side = LOG_PROBS + 8 * 0.3 + train.collective_s
    steps = simulate(setup, [EQUAL] * 5, 0)
    assert steps[0].total == pytest.approx(GENERATION + side)  # on policy: nothing to bring over yet
    for one in steps[1:-1]:
        # The batch of step t + 1 begins after the refit of step t, beside log-probs and training.
        assert one.total == pytest.approx(max(GENERATION, side) + 1.0)
        assert one.rollout == pytest.approx(max(0.0, GENERATION - side))
        idle = max(0.0, side - GENERATION) / one.total
        assert one.rollout_idle == pytest.approx(idle, abs=1e-9)
    assert steps[-1].refit == 0.0


def test_lag_1_is_never_slower() -> None:
    load = Load(16, 4, 100, 30, 0.7, 120)
    batches = [load.batch(0, step) for step in range(1, 7)]
    zero, one = (sum(step.total for step in simulate(replace(SETUP, lag=lag), batches, 0)) for lag in (0, 1))
    assert one < zero


def test_a_colocated_device_changes_hands() -> None:
    setup = replace(SETUP, colocated=True, switch_s=3.0, refit_s=1.0)
    (one,) = simulate(setup, [EQUAL], 0)
    assert one.total == pytest.approx(GENERATION + 3.0 + LOG_PROBS + TRAIN + 1.0)
    assert one.rollout == pytest.approx(GENERATION)
    assert one.actor_idle == one.rollout_idle == pytest.approx(0.0, abs=1e-9)


def test_client_judge_and_ranks_take_their_time() -> None:
    samples = EQUAL.lengths.size
    setup = replace(SETUP, intake_s=0.1, verdict_s=0.2, spread_s=0.05)
    (one,) = simulate(setup, [EQUAL], 0)
    # All samples end at once: the client takes one after another, the judge is behind it by the last group at least.
    assert one.rollout == pytest.approx(GENERATION + 0.1 * samples)
    first_group = GENERATION + 0.1 * 4
    assert one.reward == pytest.approx(first_group + 0.2 * samples - one.rollout + 0.05 * samples)


def test_who_waits_in_line() -> None:
    assert one_after_another(np.array([0.0, 0.0, 10.0, 10.5]), 2.0).tolist() == [2.0, 4.0, 12.0, 14.0]


def test_a_slow_rank_slows_the_passes_and_a_slow_server_the_rollout() -> None:
    setup = replace(SETUP, slow_ranks=Stragglers(1.0, 2.0), slow_servers=Stragglers(1.0, 3.0))
    (one,) = simulate(setup, [EQUAL], 0)
    assert one.rollout == pytest.approx(3 * GENERATION)
    assert one.log_probs == pytest.approx(2 * LOG_PROBS)
    assert one.train == pytest.approx(2 * 8 * 0.3 + 0.25)


def test_stragglers_come_as_often_as_they_should() -> None:
    setup = replace(SETUP, slow_ranks=Stragglers(0.1, 2.0))  # 8 ranks: 1 - 0.9^8 of the steps
    slow = sum(one.log_probs > LOG_PROBS * 1.5 for one in simulate(setup, [EQUAL] * 400, 3)) / 400
    assert slow == pytest.approx(1 - 0.9**8, abs=0.08)


def test_the_seed_alone_decides() -> None:
    load = Load(8, 4, 50, 40, 0.8, 200)
    setup = replace(SETUP, slow_servers=Stragglers(0.5, 2.0), lag=1)

    def run(seed: int) -> list[float]:
        return [one.total for one in simulate(setup, [load.batch(seed, step) for step in range(1, 5)], seed)]

    assert run(1) == run(1) != run(2)


def test_the_tail_is_what_comes_after_nine_tenths_of_the_samples() -> None:
    lengths = np.full((5, 2), 10)
    lengths[4, 1] = 40
    setup = replace(SETUP, servers=1, server=ServerSpeed(100, 0.0, 1.0, 0.0, 0.0), actor=replace(ACTOR, data=1))
    (one,) = simulate(setup, [batch_of(lengths)], 0)
    assert one.tail == pytest.approx(30 / 40)


@pytest.mark.parametrize("wrong", [{"lag": 2}, {"lag": 1, "colocated": True}, {"switch_s": 1.0}])
def test_setups_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        replace(SETUP, **wrong)


# The actor's passes.


def test_a_pipeline_waits_while_it_fills() -> None:
    actor = replace(ACTOR, data=1, stages=4, micro_batch_tokens=240)
    seconds, waiting = phase_s(actor, SamplePass(1.0), EQUAL)  # 32 × 120 tokens: 16 micro-batches
    assert (seconds, waiting) == (pytest.approx(32 * (1 + 3 / 16)), pytest.approx(0.0))


def test_small_micro_batches_are_slow() -> None:
    actor = replace(ACTOR, data=4, micro_batch_tokens=960, half_speed_tokens=960.0)
    assert phase_s(actor, SamplePass(1.0), EQUAL)[0] == pytest.approx(2 * 8)


@given(st.integers(0, 10_000), st.integers(1, 32))
def test_ranks_carry_what_packing_gives_them(seed: int, ranks: int) -> None:
    batch = random_batch(seed, 8)
    one_pass = SamplePass(0.5, 0.01, 0.0003)
    lengths = [int(length) for length in batch.lengths.ravel()]
    work = [sum(float(one_pass.seconds(np.array(lengths[i]))) for i in mine) for mine in shares(lengths, ranks)]
    seconds, waiting = phase_s(replace(ACTOR, data=ranks), one_pass, batch)
    assert seconds == pytest.approx(max(work))
    assert waiting == pytest.approx(1 - np.mean(work) / max(work))


def test_more_ranks_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="32 samples; data=33"):
        phase_s(replace(ACTOR, data=33), SamplePass(1.0), EQUAL)
