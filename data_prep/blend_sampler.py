"""A blend: weights over the sources of a pool, a seed, and the order of rows that follows from them.

Draws come in blocks of `BLOCK`. How many draws of a block each source gets is fixed by the weights alone, the order
inside a block and the order of a source's rows by the seed. So draw i is a function of i, and a resume needs only i.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from crossthink.errors import UserError

BLOCK = 128  # draws: the prompts of one step of the paper, so that every step has the blend's shares
ORDER_VERSION = 1  # rises with every change of the order that a seed gives


class Draw(NamedTuple):
    """One draw: row `index` of `source`, which is gone through for the `epoch`-th time (from 0)."""

    source: str
    index: int  # type: ignore[assignment]  # it hides tuple.index, which nobody asks a draw for
    epoch: int


def permutation(n: int, *key: str | int) -> np.ndarray:
    """A shuffle of 0..n-1 that depends on n and `key` alone, on every machine and under every numpy.

    numpy promises the raw stream of a bit generator for good, but not what `Generator.permutation` makes of it.
    """
    seed = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.argsort(np.random.PCG64(int.from_bytes(seed, "big")).random_raw(n), kind="stable")


def check_weights(
    counts: Mapping[str, int],
    weights: Mapping[str, float | Fraction],
    pool: str,
    blend: str = "The blend",
    of: str = "source",
) -> dict[str, Fraction]:
    """The share of every source that is drawn at all, exact, adding up to 1. Empty `weights`: proportional to `counts`.

    Args:
        counts: rows of every source of the pool.
        weights: weight of each, of any sum.
        pool: what error messages call the pool.
        blend: what error messages call the blend, at the start of a sentence.
        of: what `counts` counts and error messages speak of: source, domain or kind.

    Raises:
        UserError: a weight is negative or no finite number, all are 0, a weighted source has no rows in the pool, or no
            source has any.
    """
    if not any(counts.values()):
        raise UserError(f"{pool} has no rows to draw.")
    weights = weights or counts
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise UserError(f"{blend}'s weight of {name} is {weight}. Weights are finite numbers of 0 or more.")
        if weight > 0 and not counts.get(name):
            have = ", ".join(other for other, rows in counts.items() if rows)
            group = name if of == "source" else f"{of} {name}"
            raise UserError(
                f"{blend} draws from {group}, which has no rows in {pool}. Its {of}s are {have}. "
                f"Choose a blend of these (blend=pool takes them as they are) or prepare the missing {of}."
            )
    # By way of text: a weight written 0.1 is a tenth, not the binary number beside it.
    exact = {name: Fraction(str(weight)) for name, weight in weights.items() if weight > 0}
    total = sum(exact.values())
    if not total:
        raise UserError(f"{blend}'s weights are all 0. At least one must be positive.")
    return {name: weight / total for name, weight in exact.items()}


class BlendSampler:
    """Draws rows of a pool, endlessly, in a fixed order.

    Shares never drift: at the end of every block no source is a whole draw ahead of its target, nor therefore as many
    draws behind it as there are sources. Within a source every row comes once before any comes again, each epoch in an
    order of its own.

    Memory: one permutation per source and the counts of one block, however many draws. Time: going on costs the same at
    every draw; a jump costs about 0.1 ms for every block between, or from 0 where it leads back.

    Args:
        counts: rows of every source of the pool.
        weights: weight of each source, of any sum, such as the exact ones of `blends.blend_weights`; empty takes the
            sources as large as they are.
        seed: of every shuffle.
        pool: what error messages call the pool.

    Raises:
        UserError: impossible weights, see `check_weights`.
    """

    def __init__(
        self, counts: Mapping[str, int], weights: Mapping[str, float | Fraction], seed: int, pool: str = "the pool"
    ) -> None:
        # In alphabetical order, so that the order in which someone wrote the weights changes nothing.
        self.shares = dict(sorted(check_weights(counts, weights, pool).items()))
        self.counts = {source: counts[source] for source in self.shares}
        self.seed = seed
        self.position = 0
        self._reached: tuple[int, dict[str, int]] = (0, dict.fromkeys(self.shares, 0))  # block, draws before it
        self._block: tuple[int, list[tuple[str, int]]] = (-1, [])
        self._epochs: dict[str, tuple[int, np.ndarray]] = {}

    def locate(self, i: int) -> Draw:
        """Draw number `i`, from 0. Does not move the position."""
        if i < 0:
            raise IndexError(f"draw {i}")
        block, offset = divmod(i, BLOCK)
        source, nth = self._order(block)[offset]
        epoch, index = divmod(nth, self.counts[source])
        return Draw(source, int(self._rows(source, epoch)[index]), epoch)

    def draw(self, n: int) -> list[Draw]:
        """The next `n` draws."""
        draws = [self.locate(i) for i in range(self.position, self.position + n)]
        self.position += n
        return draws

    def state_dict(self) -> dict[str, Any]:
        """Position and what the order depends on, as JSON-ready values."""
        identity = self._identity()
        return {"position": self.position, "fingerprint": _fingerprint(identity), **identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            UserError: it was taken from another pool, blend or seed; the message says what differs.
        """
        identity = self._identity()
        if state.get("fingerprint") != _fingerprint(identity):
            differing = [name for name, value in identity.items() if state.get(name) != value]
            details = "; ".join(f"{_MEANS[name]}: saved {state.get(name)}, now {identity[name]}" for name in differing)
            raise UserError(
                f"The saved sampler position belongs to another order of prompts ({details or 'damaged state'}). "
                "Resume with the pool, blend and seed that the run began with."
            )
        self.position = int(state["position"])

    def _identity(self) -> dict[str, Any]:
        shares = {source: str(share) for source, share in self.shares.items()}
        return {"counts": dict(self.counts), "shares": shares, "seed": self.seed, "order_version": ORDER_VERSION}

    def _order(self, block: int) -> list[tuple[str, int]]:
        """The draws of a block in order: source, and how many of its draws came before."""
        if self._block[0] != block:
            drawn, after = dict(self._drawn(block)), self._drawn(block + 1)
            sources = [source for source in self.shares for _ in range(after[source] - drawn[source])]
            order = []
            for place in permutation(BLOCK, "block", self.seed, block):
                source = sources[place]
                order.append((source, drawn[source]))
                drawn[source] += 1
            self._block = (block, order)
        return self._block[1]

    def _drawn(self, blocks: int) -> dict[str, int]:
        """Draws of each source in the first `blocks` blocks."""
        reached, drawn = self._reached
        if blocks < reached:  # each block's counts follow from the one before, so the way back leads over the start
            reached, drawn = 0, dict.fromkeys(self.shares, 0)
        for block in range(reached + 1, blocks + 1):
            drawn = next_counts(drawn, self.shares, block * BLOCK)
        self._reached = (blocks, drawn)
        return drawn

    def _rows(self, source: str, epoch: int) -> np.ndarray:
        if self._epochs.get(source, (-1, None))[0] != epoch:
            self._epochs[source] = (epoch, permutation(self.counts[source], "rows", self.seed, source, epoch))
        return self._epochs[source][1]


def next_counts(before: Mapping[str, int], shares: Mapping[str, Fraction], total: int) -> dict[str, int]:
    """Counts that add up to `total`, none below `before`, each as near its share of `total` as that allows.

    Largest remainder on the cumulative targets. Plain largest remainder may take a draw back from a source whose share
    of a block is below one (the Alabama paradox); here nobody gives back, and who is furthest ahead waits instead.
    """
    owed = {source: share * total - before[source] for source, share in shares.items()}
    given = {source: max(0, math.floor(amount)) for source, amount in owed.items()}
    left = total - sum(before.values()) - sum(given.values())
    step = 1 if left > 0 else -1
    for _ in range(abs(left)):
        movable = [source for source in given if step > 0 or given[source]]
        source = max(movable, key=lambda name: step * (owed[name] - given[name]))
        given[source] += step
    return {source: before[source] + given[source] for source in before}


_MEANS = {"counts": "rows per source", "shares": "shares", "seed": "seed", "order_version": "sampling order version"}


def _fingerprint(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
