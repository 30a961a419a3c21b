"""What the calls of one process came to, and how long it did nothing but wait for them."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from data_prep.synthesis.calls.request import Usage


@dataclass
class Counters:
    """Counts of one `Caller`, from its start.

    Attributes:
        calls: requests that the store did not know, each counted once however many tries it took.
        from_store: answers that were there already.
        tries_again: further tries, after a failure that may pass or without the schema.
        prose: replies in which no object was found, whether or not a later attempt brought one.
        failed: final failures by reason, stored ones included.
        used: tokens of this process's calls.
        under_way, most_under_way: calls now, and at most.
        schemas_refused: names of schemas that the endpoint would not take.
    """

    calls: int = 0
    from_store: int = 0
    tries_again: int = 0
    prose: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    used: Usage = field(default_factory=Usage)
    under_way: int = 0
    most_under_way: int = 0
    schemas_refused: set[str] = field(default_factory=set)
    _waited_s: float = 0.0
    _idle_began: float = 0.0

    @property
    def waiting_s(self) -> float:
        """Seconds with a call under way in which this thread computed nothing, for want of anything else to do."""
        return self._waited_s + (_idle_clock() - self._idle_began if self.under_way else 0.0)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """A call is under way while the block lasts."""
        if self.under_way == 0:
            self._idle_began = _idle_clock()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            yield
        finally:
            self.under_way -= 1
            if self.under_way == 0:
                self._waited_s += _idle_clock() - self._idle_began

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "calls": self.calls,
            "from_store": self.from_store,
            "tries_again": self.tries_again,
            "prose": self.prose,
            "failed": dict(sorted(self.failed.items())),
            "prompt_tokens": self.used.prompt_tokens,
            "completion_tokens": self.used.completion_tokens,
            "most_under_way": self.most_under_way,
            "waiting_s": round(self.waiting_s, 3),
            "schemas_refused": sorted(self.schemas_refused),
        }


def _idle_clock() -> float:
    """Moves while this thread does not compute."""
    return time.perf_counter() - time.thread_time()
