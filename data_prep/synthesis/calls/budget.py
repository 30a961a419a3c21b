"""Tokens and money that a run may take: an estimate before it starts, and a limit that it never passes."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

from crossthink.errors import EXIT_RESUMABLE, ConfigError, UserError
from data_prep.synthesis.calls.request import Usage

CHARACTERS_PER_TOKEN = 3
"""For estimates of prompts: low for English, so that the estimate is rather too high. [ours]"""
MILLION = 1_000_000


class BudgetReached(UserError):
    """The next call might pass the budget. Every answer is kept; the run stops, resumable."""

    exit_code = EXIT_RESUMABLE


@dataclass(frozen=True)
class Prices:
    """Of a million tokens, in whatever currency."""

    prompt: float
    completion: float

    def cost(self, usage: Usage) -> float:
        """Of these tokens."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / MILLION


@dataclass
class Reservation:
    """What a call may take, held for it. `used` is what it did take: nothing, where it was not answered."""

    most: Usage
    used: Usage = field(default_factory=Usage)


class Budget:
    """A limit of tokens, of cost, of both or of neither. What a call can take at most is reserved before it is made.

    Spending never passes the limit, as long as no call takes more than was reserved for it. What was under way when
    a process was killed is known to nobody and not counted.

    Args:
        tokens: of prompts and completions together; None: no limit.
        cost: in the prices' currency; None: no limit.
        prices: of a million tokens; zeros where cost is of no interest.
        spent: what earlier starts have taken.
        name: the group of its keys, for messages.
        tasks: that share the limits which the user gave; `tokens` and `cost` are one task's.

    Raises:
        ConfigError: a limit is negative, or a limit of cost has no prices.
    """

    def __init__(
        self,
        tokens: int | None,
        cost: float | None,
        prices: Prices,
        spent: Usage,
        name: str = "budget",
        tasks: int = 1,
    ) -> None:
        for key, limit in (("tokens", tokens), ("cost", cost)):
            if limit is not None and limit < 0:
                raise ConfigError(f"{name}.{key}={limit} must be 0 or more, or null for no limit.")
        if min(prices.prompt, prices.completion) < 0:
            raise ConfigError(f"The prices {prices.prompt} and {prices.completion} must be 0 or more.")
        if cost is not None and prices.prompt == prices.completion == 0:
            raise ConfigError(f"{name}.cost={cost} needs the prices of a million tokens; they are 0.")
        self.tokens, self.cost, self.prices = tokens, cost, prices
        self.spent, self._name, self._tasks = spent, name, tasks
        self._held, self._calls = Usage(), 0
        self._released = asyncio.Event()

    @contextlib.asynccontextmanager
    async def reserved(self, most: Usage) -> AsyncIterator[Reservation]:
        """Hold what a call can take at most while it is made; whoever makes it says what it did take.

        Raises:
            BudgetReached: there is too little left, and no call under way that may leave enough.
        """
        while not self._fits(self.spent + self._held + most):
            if not self._calls or not self._fits(self.spent + most):
                raise self._reached(most)
            await self._released.wait()
        reservation = Reservation(most)
        self._held, self._calls = self._held + most, self._calls + 1
        try:
            yield reservation
        finally:
            self._held, self._calls = self._held - most, self._calls - 1
            self.spent += reservation.used
            self._released.set()
            self._released = asyncio.Event()

    def _fits(self, usage: Usage) -> bool:
        within_tokens = self.tokens is None or usage.tokens <= self.tokens
        return within_tokens and (self.cost is None or self.prices.cost(usage) <= self.cost)

    def _reached(self, most: Usage) -> BudgetReached:
        said = []
        if self.tokens is not None and (self.spent + most).tokens > self.tokens:
            said.append(
                f"{self._name}.tokens={self.tokens}: {self.spent.tokens} are spent, the next call may take "
                f"{most.tokens}"
            )
        if self.cost is not None and self.prices.cost(self.spent + most) > self.cost:
            spent, next_call = self.prices.cost(self.spent), self.prices.cost(most)
            said.append(
                f"{self._name}.cost={self.cost:g}: {spent:.4f} is spent, the next call may cost {next_call:.4f}"
            )
        share = f" (each of {self._tasks} tasks has its even share of what you gave)" if self._tasks > 1 else ""
        return BudgetReached(
            f"The budget is reached. {'; '.join(said)}{share}. Every answer is kept: the same command with a "
            "higher budget goes on from here."
        )


@dataclass(frozen=True)
class Planned:
    """The calls of one purpose.

    Attributes:
        purpose: "question", "solution" and so on.
        calls_per_document: at most, or on average.
        prompt_tokens, completion_tokens: of one call; see `rough_tokens` for a prompt.
    """

    purpose: str
    calls_per_document: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        by_purpose: calls and tokens of each.
        cost: of all, in the prices' currency.
    """

    by_purpose: dict[str, Usage]
    cost: float

    @property
    def total(self) -> Usage:
        """All purposes together."""
        return total(self.by_purpose.values())


def rough_tokens(characters: int) -> int:
    """Tokens of a prompt before any tokenizer has seen it."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


def total(usages: Iterable[Usage]) -> Usage:
    """Of all of them."""
    return sum(usages, Usage())


def estimate(documents: int, planned: Sequence[Planned], prices: Prices) -> Estimate:
    """What so many documents take, before the first call.

    Args:
        documents: that reach the first call.
        planned: the calls of each purpose.
        prices: of a million tokens.
    """
    by_purpose: dict[str, Usage] = {}
    for one in planned:
        calls = math.ceil(documents * one.calls_per_document)
        usage = Usage(calls, calls * one.prompt_tokens, calls * one.completion_tokens)
        by_purpose[one.purpose] = by_purpose.get(one.purpose, Usage()) + usage
    return Estimate(by_purpose, prices.cost(total(by_purpose.values())))
