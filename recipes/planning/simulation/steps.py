"""Whole training steps simulated: rollouts, rewards, log-probs, training, refit, in the order of `recipes.rl.feed`.

`plan` says by formula what a mean step takes. Here every sample has its own length, servers and ranks may be slow,
and a step waits for the last of them: what tails, stragglers and imbalance cost, at sizes that cannot be tried. Nothing
runs and no time passes; the same seed gives the same steps. Seconds come from `recipes.planning.simulation.costs`, or
from whoever has measured them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.planning.simulation.events import SHARE, Batch, Generated, ServerSpeed, generate

TAIL = 0.9
"""Share of a batch's samples after which its tail begins."""
_SERVERS, _RANKS = 1, 2  # streams of random numbers, beside that of recipes.planning.simulation.load


@dataclass(frozen=True)
class Stragglers:
    """Machines that are slow for a step, drawn anew for every step.

    Attributes:
        probability: of one server, or of one rank.
        factor: by which it then takes longer, at least 1.
    """

    probability: float = 0.0
    factor: float = 1.0


@dataclass(frozen=True)
class SamplePass:
    """Seconds of a pass over one sample with n response tokens, on one data-parallel rank: all its GPUs together.

    constant + linear · n + square · n²: attention is what makes it square.
    """

    constant: float = 0.0
    linear: float = 0.0
    square: float = 0.0

    def seconds(self, lengths: np.ndarray) -> np.ndarray:
        """Of each sample."""
        return self.constant + self.linear * lengths + self.square * np.square(lengths, dtype=float)


@dataclass(frozen=True)
class ActorSpeed:
    """How fast the actor's GPUs are together.

    Attributes:
        ranks: GPUs.
        data: data-parallel ranks among which the samples are dealt.
        stages: of the pipeline.
        micro_batch_tokens: positions of a micro-batch; a rank's number of them is what fills the pipeline.
        half_speed_tokens: positions of a micro-batch at which matrix products run at half their speed; it goes as
            n / (n + half_speed_tokens). 0: the size does not matter.
        log_probs: the reference's pass.
        train: forward and backward pass, and what is recomputed.
        collective_s: gradients and weights among data-parallel ranks, once a step.
    """

    ranks: int
    data: int
    stages: int
    micro_batch_tokens: int
    half_speed_tokens: float
    log_probs: SamplePass
    train: SamplePass
    collective_s: float


@dataclass(frozen=True)
class Setup:
    """One way to run the steps.

    Attributes:
        lag: `rollout.lag`, 0 or 1.
        colocated: the servers are on the actor's GPUs (`rollout.colocated`), at lag 0 alone.
        servers: rollout servers.
        server: how fast each of them is.
        actor: how fast the actor is.
        refit_s: seconds of a refit of all servers.
        switch_s: seconds a step in which colocated GPUs change hands, there and back.
        intake_s: seconds in which the trainer's one client takes a sample in, one after another.
        verdict_s: seconds of the reward servers a sample, one after another.
        spread_s: seconds a sample in which the whole batch is brought to every rank, once it is whole.
        slow_servers: by server.
        slow_ranks: by GPU of the actor; the others wait for it.
        share: of its fair part of the batch, what a server is dealt at a time.
    """

    lag: int
    colocated: bool
    servers: int
    server: ServerSpeed
    actor: ActorSpeed
    refit_s: float
    switch_s: float = 0.0
    intake_s: float = 0.0
    verdict_s: float = 0.0
    spread_s: float = 0.0
    slow_servers: Stragglers = Stragglers()
    slow_ranks: Stragglers = Stragglers()
    share: float = SHARE

    def __post_init__(self) -> None:
        if self.lag not in (0, 1) or (self.lag and self.colocated):
            raise ValueError(f"lag={self.lag}, colocated={self.colocated}; lag is 0 or 1, and 0 where colocated")
        if self.switch_s and not self.colocated:
            raise ValueError(f"switch_s={self.switch_s}, colocated=False; only colocated GPUs change hands")


@dataclass(frozen=True)
class StepTimes:
    """One simulated step, in seconds; the phases are those of metrics.jsonl and add up to `total`.

    Attributes:
        step: from 1.
        rollout: waiting until the batch was generated.
        reward: waiting for its verdicts after that, and bringing the batch to all ranks.
        log_probs: the reference's pass.
        train: forward and backward passes, and collectives.
        refit: weights to the servers.
        switch: colocated GPUs changing hands.
        tokens: response tokens of its batch.
        actor_idle: share of the step in which the actor's GPUs had nothing to do.
        rollout_idle: share of the step in which a mean server neither generated nor was refitted.
        tail: share of the batch's generation after `TAIL` of its samples were done.
        uneven: share of the train phase that the mean data-parallel rank waits for the one with most to do.
    """

    step: int
    rollout: float
    reward: float
    log_probs: float
    train: float
    refit: float
    switch: float
    tokens: int
    actor_idle: float
    rollout_idle: float
    tail: float
    uneven: float

    @property
    def total(self) -> float:
        """Seconds of the phases, one after another."""
        return self.rollout + self.reward + self.log_probs + self.train + self.refit + self.switch


@dataclass(frozen=True)
class _Rollout:
    """A batch that was begun at `begun`, and when the trainer has all its samples, and all its verdicts."""

    batch: Batch
    begun: float
    made: Generated
    taken_in: float
    judged: float

    def busy(self, start: float, end: float) -> float:
        """Seconds between two moments in which a mean server worked on it."""
        ends = self.begun + self.made.servers
        return float(np.clip(np.minimum(ends, end) - max(self.begun, start), 0.0, None).mean())


def simulate(setup: Setup, batches: Sequence[Batch], seed: int) -> list[StepTimes]:
    """The steps of a run with these batches, one each.

    Lag 0: a batch is generated, judged, trained on, and the weights go over. Lag 1: once the batch of a step is there,
    the weights of the step before go over, the next batch is begun with them, and the step is trained meanwhile; the
    first step has nothing to bring over, the last nothing to begin.

    Args:
        setup: how.
        batches: of steps 1, 2, ...
        seed: of the stragglers.

    Raises:
        ValueError: a batch has fewer samples than there are data-parallel ranks; or see `generate`.
    """
    return list(_one_step_off(setup, batches, seed) if setup.lag else _on_policy(setup, batches, seed))


def _on_policy(setup: Setup, batches: Sequence[Batch], seed: int) -> Iterator[StepTimes]:
    now = 0.0
    for step, batch in enumerate(batches, 1):
        rollout = _begin(setup, batch, seed, step, now + setup.switch_s / 2)
        found = _step(setup, seed, step, now, rollout, [rollout], refits=True)
        yield found
        now += found.total


def _one_step_off(setup: Setup, batches: Sequence[Batch], seed: int) -> Iterator[StepTimes]:
    now = 0.0
    current = _begin(setup, batches[0], seed, 1, now)
    for step in range(1, len(batches) + 1):
        under_way, following, refits = [current], current, 1 < step < len(batches)
        if step < len(batches):
            there = _there(setup, current, now) + (setup.refit_s if refits else 0.0)
            following = _begin(setup, batches[step], seed, step + 1, there)
            under_way.append(following)
        found = _step(setup, seed, step, now, current, under_way, refits)
        yield found
        now += found.total
        current = following


def _begin(setup: Setup, batch: Batch, seed: int, step: int, now: float) -> _Rollout:
    slow = np.random.default_rng([seed, step, _SERVERS]).random(setup.servers) < setup.slow_servers.probability
    made = generate(batch, setup.server, np.where(slow, setup.slow_servers.factor, 1.0).tolist(), setup.share)
    order = np.argsort(made.samples, axis=None, kind="stable")
    taken_in = np.empty(order.size)
    taken_in[order] = one_after_another(made.samples.ravel()[order], setup.intake_s)
    whole = np.sort(taken_in.reshape(made.samples.shape).max(axis=1))
    judged = one_after_another(whole, setup.verdict_s * made.samples.shape[1])
    return _Rollout(batch, now, made, now + float(taken_in.max()), now + float(judged[-1]))


def one_after_another(arrivals: np.ndarray, seconds: float) -> np.ndarray:
    """When each of these is done, where one at a time takes `seconds`, first come first served.

    The i-th ends at the latest, over all j ≤ i, of arrival j plus the i - j + 1 that are served from it on.

    Args:
        arrivals: float [n], rising.
        seconds: of each.
    """
    places = np.arange(len(arrivals))
    return np.maximum.accumulate(arrivals - places * seconds) + (places + 1) * seconds


def _there(setup: Setup, rollout: _Rollout, now: float) -> float:
    """When every rank has the batch, and colocated GPUs are the actor's again."""
    spread = setup.spread_s * rollout.batch.lengths.size
    return max(now, rollout.judged) + spread + setup.switch_s / 2


def _step(
    setup: Setup, seed: int, step: int, now: float, rollout: _Rollout, under_way: Sequence[_Rollout], refits: bool
) -> StepTimes:
    """The step that begins now, with its batch, and everything that servers have under way during it."""
    waited = max(0.0, rollout.taken_in - now - setup.switch_s / 2)
    reward = _there(setup, rollout, now) - now - waited - setup.switch_s
    factor = _slowest_rank(setup, seed, step)
    log_probs, _ = phase_s(setup.actor, setup.actor.log_probs, rollout.batch)
    train, uneven = phase_s(setup.actor, setup.actor.train, rollout.batch)
    log_probs, train = factor * log_probs, factor * train + setup.actor.collective_s
    refit = setup.refit_s if refits else 0.0
    total = waited + reward + log_probs + train + refit + setup.switch_s
    generating = sum(one.busy(now, now + total) for one in under_way)
    idle = waited + reward
    return StepTimes(
        step=step,
        rollout=waited,
        reward=reward,
        log_probs=log_probs,
        train=train,
        refit=refit,
        switch=setup.switch_s,
        tokens=rollout.batch.tokens,
        actor_idle=(idle - generating if setup.colocated else idle) / total,
        rollout_idle=(idle - generating if setup.colocated else total - generating - refit) / total,
        tail=1 - float(np.quantile(rollout.made.samples, TAIL, method="inverted_cdf")) / rollout.made.end,
        uneven=uneven * (train - setup.actor.collective_s) / train,
    )


def _slowest_rank(setup: Setup, seed: int, step: int) -> float:
    any_slow = 1 - (1 - setup.slow_ranks.probability) ** setup.actor.ranks
    return setup.slow_ranks.factor if np.random.default_rng([seed, step, _RANKS]).random() < any_slow else 1.0


def phase_s(actor: ActorSpeed, one_pass: SamplePass, batch: Batch) -> tuple[float, float]:
    """Seconds of a pass over a batch on the rank with most to do, and what share of them a mean rank waits for it.

    Samples are dealt as `recipes.actors.packing.shares` does, longest first, one to each rank in turn. A pipeline of p
    stages takes (p - 1) / m longer with m micro-batches: while it fills and drains, stages wait.

    Raises:
        ValueError: fewer samples than ranks; the trainer refuses that too.
    """
    lengths = np.sort(batch.lengths, axis=None)[::-1]
    if len(lengths) < actor.data:
        raise ValueError(f"batch: {len(lengths)} samples; data={actor.data} data-parallel ranks need one each")
    padded = np.zeros(-(-len(lengths) // actor.data) * actor.data, dtype=np.int64)
    padded[: len(lengths)] = lengths
    rounds = padded.reshape(-1, actor.data)
    seconds = np.where(rounds > 0, one_pass.seconds(rounds), 0.0).sum(axis=0)
    tokens = (rounds + np.where(rounds > 0, batch.prompt_tokens, 0)).sum(axis=0)
    micro_batches = np.ceil(tokens / actor.micro_batch_tokens)
    seconds *= 1 + (actor.stages - 1) / micro_batches
    seconds *= 1 + actor.half_speed_tokens * micro_batches / tokens
    most = float(seconds.max())
    return most, 1 - float(seconds.mean()) / most if most else 0.0
