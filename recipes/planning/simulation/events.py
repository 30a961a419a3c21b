"""One batch of rollouts, event by event: continuous batching in every server, groups dealt as the client deals them.

All samples of a server advance by one token a decode step, and a step takes the same time for all of them, linear in
how many there are and in the KV cache that they read. So nothing happens between two moments at which a sample ends or
enters, and the seconds of the decode steps between them are a sum in closed form. An event is such a moment: the work
grows with samples, not with tokens, and a heap of (time, server) is all the machinery that it needs; a library of
simulated processes would add a dependency and a coroutine per server.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# As in recipes.rollout.client.dealing, which imports torch; a test holds them, and `Dealer`, to it.
SHARE = 0.75
MOST_SAMPLES = 4096


@dataclass(frozen=True)
class ServerSpeed:
    """How fast one rollout server, on one or more GPUs, is.

    A decode step with n samples whose KV cache holds k tokens takes step_s + sample_s · n + kv_token_s · k.

    Attributes:
        slots: samples that are generated side by side.
        prefill_s: seconds in which a prompt is read, once for its group; decoding waits meanwhile.
        step_s: seconds of a decode step that do not depend on what runs: reading the weights, starting kernels.
        sample_s: seconds more for each sample.
        kv_token_s: seconds more for each token in the KV cache.
    """

    slots: int
    prefill_s: float
    step_s: float
    sample_s: float
    kv_token_s: float

    def decode_s(self, steps: int, samples: int, kv_tokens: int) -> float:
        """Seconds of `steps` decode steps that begin with so many samples and cached tokens, none ending or entering.

        It grows by a token a sample and step: Σ k_i over i < steps is k · steps + samples · steps (steps - 1) / 2.
        """
        read = kv_tokens * steps + samples * (steps * (steps - 1) // 2)
        return steps * (self.step_s + self.sample_s * samples) + self.kv_token_s * read

    def steps_until(self, seconds: float, samples: int, kv_tokens: int) -> int:
        """Whole decode steps after which at least `seconds` have passed; 0 where there is nothing to wait for."""
        square = self.kv_token_s * samples / 2
        linear = self.step_s + self.sample_s * samples + self.kv_token_s * kv_tokens - square
        if seconds <= 0:
            return 0
        # The root of square · x² + linear · x = seconds, in the form that takes no difference of like numbers.
        root = math.sqrt(linear * linear + 4 * square * seconds)
        found = math.ceil(2 * seconds / (linear + root) if linear > 0 else (root - linear) / (2 * square))
        while found and self.decode_s(found - 1, samples, kv_tokens) >= seconds:
            found -= 1
        while self.decode_s(found, samples, kv_tokens) < seconds:
            found += 1
        return found


@dataclass(frozen=True)
class Batch:
    """What one step generates.

    Attributes:
        lengths: int [prompts, samples]: response tokens of every sample, at least 1.
        prompt_tokens: of every prompt.
        budgets: int [prompts, samples]: response tokens that the client must reckon with when it deals.
    """

    lengths: np.ndarray
    prompt_tokens: int
    budgets: np.ndarray

    @property
    def tokens(self) -> int:
        """Response tokens of all samples."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Generated:
    """When what was there, in seconds after the batch was begun.

    Attributes:
        samples: seconds [prompts, samples] at which each sample had its last token.
        servers: seconds at which each server had its last sample; it was busy until then. 0: it got nothing.
        tokens: response tokens that each server drew.
    """

    samples: np.ndarray
    servers: np.ndarray
    tokens: np.ndarray

    @property
    def end(self) -> float:
        """Seconds until the last sample."""
        return float(self.samples.max())


class Dealer:
    """`recipes.rollout.client.dealing.Dealing` where no server fails, in O(log servers) a group.

    A group goes whole to the server with the fewest outstanding tokens (those that could still come: budgets of
    unfinished samples, and their prompts) that has room: its outstanding tokens stay within `share` of its part of all,
    and its samples within MOST_SAMPLES. One that holds nothing always has room.

    Args:
        batch: what is dealt; groups in order.
        servers: how many share it.
        share: of its fair part of all tokens, what a server holds at a time, where there are several; infinite: all
            groups are dealt at once.
    """

    def __init__(self, batch: Batch, servers: int, share: float = SHARE):
        self._prompt_tokens, self._budgets = batch.prompt_tokens, batch.budgets
        self._costs = [int(cost) for cost in batch.budgets.sum(axis=1) + batch.prompt_tokens]
        self._window = (share if servers > 1 else 1.0) * sum(self._costs) / servers
        self._next = 0
        self._tokens = [0] * servers
        self._samples = [0] * servers
        self._left = [batch.budgets.shape[1]] * batch.budgets.shape[0]
        self._fewest = [(0, server) for server in range(servers)]  # a heap; entries whose tokens are old count no more

    def deal(self) -> list[tuple[int, int]]:
        """(server, group) of every group that is handed out now."""
        dealt = []
        while self._next < len(self._costs):
            server = self._pick(self._costs[self._next])
            if server is None:
                break
            self._samples[server] += self._left[self._next]
            self._add(server, self._costs[self._next])
            dealt.append((server, self._next))
            self._next += 1
        return dealt

    def finish(self, server: int, group: int, sample: int) -> None:
        """A sample that the server holds has its last token."""
        self._left[group] -= 1
        self._samples[server] -= 1
        self._add(server, -int(self._budgets[group, sample]) - (0 if self._left[group] else self._prompt_tokens))

    def _add(self, server: int, tokens: int) -> None:
        self._tokens[server] += tokens
        heapq.heappush(self._fewest, (self._tokens[server], server))

    def _pick(self, cost: int) -> int | None:
        full = []
        found = None
        while self._fewest:
            tokens, server = self._fewest[0]
            if tokens != self._tokens[server]:
                heapq.heappop(self._fewest)
                continue
            if self._samples[server] and tokens + cost > self._window:
                break  # nobody has fewer
            if not self._samples[server] or self._samples[server] + self._budgets.shape[1] <= MOST_SAMPLES:
                found = server
                break
            full.append(heapq.heappop(self._fewest))
        for entry in full:
            heapq.heappush(self._fewest, entry)
        return found


class _Server:
    """One server: what runs, what waits, and the time up to which its decode steps have been counted."""

    def __init__(self, speed: ServerSpeed, factor: float, prompt_tokens: int):
        self._speed, self._factor, self._prompt_tokens = speed, factor, prompt_tokens
        self._steps = 0
        self._kv = 0
        self._running: list[tuple[int, int, int, int]] = []  # heap of (step after which it ends, group, sample, length)
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._read: set[int] = set()
        self.at = 0.0
        self.tokens = 0
        self.planned = 0  # of plans for its next event; the last one counts

    def add(self, now: float, group: int, lengths: Sequence[int]) -> None:
        """A group arrives: its samples wait for free places, from the end of the decode step under way."""
        if self._running:
            steps = self._speed.steps_until((now - self.at) / self._factor, len(self._running), self._kv)
            # Rounding must not carry it past an end that falls on this very moment.
            self._decode(min(steps, self._running[0][0] - self._steps))
        else:
            self.at = max(self.at, now)
        self._waiting.extend((group, sample, length) for sample, length in enumerate(lengths))

    def next_event(self) -> float | None:
        """Let in what has a place; the time at which the next sample ends. None: there is nothing to do."""
        while self._waiting and len(self._running) < self._speed.slots:
            group, sample, length = self._waiting.popleft()
            if group not in self._read:
                self._read.add(group)
                self.at += self._speed.prefill_s * self._factor
            heapq.heappush(self._running, (self._steps + length, group, sample, length))
            self._kv += self._prompt_tokens
        if not self._running:
            return None
        return self.at + self._seconds(self._running[0][0] - self._steps)

    def finish(self) -> list[tuple[int, int]]:
        """Decode until the next sample ends. (group, sample) of all that end with this step."""
        self._decode(self._running[0][0] - self._steps)
        ended = []
        while self._running and self._running[0][0] == self._steps:
            _, group, sample, length = heapq.heappop(self._running)
            self._kv -= self._prompt_tokens + length
            self.tokens += length
            ended.append((group, sample))
        return ended

    def _decode(self, steps: int) -> None:
        self.at += self._seconds(steps)
        self._kv += steps * len(self._running)
        self._steps += steps

    def _seconds(self, steps: int) -> float:
        return self._factor * self._speed.decode_s(steps, len(self._running), self._kv)


def generate(batch: Batch, speed: ServerSpeed, factors: Sequence[float], share: float = SHARE) -> Generated:
    """Generate a batch on `len(factors)` servers.

    Args:
        batch: what.
        speed: of every server.
        factors: by how much each server is slower than that; 1: as fast.
        share: see `Dealer`.

    Raises:
        ValueError: no server, no slot, a length below 1, or a decode step that takes no time.
    """
    _check(batch, speed, factors)
    lengths = batch.lengths.tolist()
    servers = [_Server(speed, factor, batch.prompt_tokens) for factor in factors]
    dealer = Dealer(batch, len(servers), share)
    samples = np.zeros(batch.lengths.shape)
    events: list[tuple[float, int, int]] = []

    def hand_out(now: float, changed: set[int]) -> None:
        """Deal, and plan the next event of every server that something changed for."""
        for number, group in dealer.deal():
            servers[number].add(now, group, lengths[group])
            changed.add(number)
        for number in sorted(changed):
            server = servers[number]
            at = server.next_event()
            server.planned += 1
            if at is not None:
                heapq.heappush(events, (at, number, server.planned))

    hand_out(0.0, set())
    while events:
        now, changed = events[0][0], set()
        while events and events[0][0] == now:  # all of one moment, before what became free is dealt
            _, number, planned = heapq.heappop(events)
            if planned != servers[number].planned:
                continue
            for group, sample in servers[number].finish():
                samples[group, sample] = now
                dealer.finish(number, group, sample)
            changed.add(number)
        hand_out(now, changed)
    return Generated(
        samples, np.array([one.at for one in servers]), np.array([one.tokens for one in servers], dtype=np.int64)
    )


def _check(batch: Batch, speed: ServerSpeed, factors: Sequence[float]) -> None:
    if batch.lengths.ndim != 2 or not batch.lengths.size or batch.lengths.shape != batch.budgets.shape:
        raise ValueError(
            f"batch: lengths of shape {batch.lengths.shape} and budgets of {batch.budgets.shape}; both must be "
            "[prompts, samples], with at least one of each"
        )
    if batch.lengths.min() < 1 or (batch.lengths > batch.budgets).any():
        raise ValueError(f"lengths: the shortest is {batch.lengths.min()}; allowed are 1 to each sample's budget")
    if not len(factors) or min(factors) <= 0:
        raise ValueError(f"factors: {list(factors)[:4]}; at least one server is needed, and every factor above 0")
    if speed.slots < 1 or speed.step_s + speed.sample_s <= 0:
        raise ValueError(
            f"speed: slots={speed.slots}, step_s={speed.step_s}, sample_s={speed.sample_s}; at least one slot is "
            "needed, and a decode step must take time"
        )
