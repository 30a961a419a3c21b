"""What the server counts, in Prometheus' words and for its own page."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Histogram, Info, generate_latest
from prometheus_client import Counter as Total
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from reward_server.pool import WorkerPool
from reward_server.verdicts import Item, Verdict

PREFIX = "crossthink_reward_"
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds of the latency of a request, seconds."""
ITEM_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
"""Upper bounds of the time spent on one item, waiting left out, seconds."""


class Metrics:
    """Counters of one server. A verdict is counted when it is given, once a request id (`Service.score`).

    Args:
        facts: labels that never change: version, rules hash, match.
        pool: whose workers are counted.
        queue: gives the items under way.
    """

    def __init__(self, facts: dict[str, str], pool: WorkerPool, queue: Callable[[], int]):
        self._pool, self._queue = pool, queue
        self._started = time.monotonic()
        self._by_status: Counter[str] = Counter()
        self._requests = 0
        self.registry = CollectorRegistry()
        Info(PREFIX + "server", "What this server judges by.", registry=self.registry).info(facts)
        self._verdicts = Total(
            PREFIX + "verdicts",
            "Verdicts given.",
            ["protocol", "kind", "status", "format"],
            registry=self.registry,
        )
        self._answers = Total(PREFIX + "requests", "Requests answered.", ["protocol", "code"], registry=self.registry)
        self._request_s = Histogram(
            PREFIX + "request_seconds",
            "Body to reply.",
            ["protocol"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._item_s = Histogram(
            PREFIX + "item_seconds", "Spent on one item.", ["kind"], buckets=ITEM_BUCKETS, registry=self.registry
        )
        for name, text, read in (
            ("queue_items", "Items under way.", queue),
            ("waiting_questions", "Questions that wait for a worker.", lambda: pool.waiting),
            ("workers", "Worker processes alive.", lambda: len(pool.pids)),
        ):
            Gauge(PREFIX + name, text, registry=self.registry).set_function(read)
        self.registry.register(_PoolTotals(pool))

    def count(self, protocol: str, items: Sequence[Item], verdicts: Sequence[Verdict]) -> None:
        """Count a batch of verdicts."""
        groups = Counter(
            (item.kind, verdict.status, verdict.format) for item, verdict in zip(items, verdicts, strict=True)
        )
        for (kind, status, form), number in groups.items():
            self._verdicts.labels(protocol, kind, status, str(form)).inc(number)
            self._by_status[status] += number
        timers = {kind: self._item_s.labels(kind) for kind, _, _ in groups}
        for item, verdict in zip(items, verdicts, strict=True):
            timers[item.kind].observe(verdict.elapsed_ms / 1e3)

    def answered(self, protocol: str, code: int, seconds: float) -> None:
        """Count a request."""
        self._requests += 1
        self._answers.labels(protocol, str(code)).inc()
        if code == 200:
            self._request_s.labels(protocol).observe(seconds)

    def page(self) -> bytes:
        """The text of /metrics."""
        return generate_latest(self.registry)

    def counters(self) -> dict[str, Any]:
        """The few numbers that the server's own page shows."""
        return {
            "verdicts": dict(self._by_status),
            "queue": self._queue(),
            "workers": len(self._pool.pids),
            "restarts": dict(self._pool.restarts),
            "requests": self._requests,
            "uptime_s": round(time.monotonic() - self._started, 1),
        }


class _PoolTotals(Collector):
    """Counts that the pool keeps itself."""

    def __init__(self, pool: WorkerPool):
        self._pool = pool

    def collect(self) -> list[CounterMetricFamily]:
        restarts = CounterMetricFamily(PREFIX + "worker_restarts", "Workers replaced.", labels=["reason"])
        for reason, number in self._pool.restarts.items():
            restarts.add_metric([reason], number)
        hits = CounterMetricFamily(PREFIX + "remembered", "Questions answered from memory.", value=self._pool.hits)
        return [restarts, hits]
