"""What the rollout server counts, in Prometheus' words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from recipes.rollout.interface import Response

PREFIX = "crossthink_rollout_"
SAMPLE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Upper bounds of the seconds from a request's arrival to one of its samples."""
REFIT_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Upper bounds of the seconds of a refit, waiting for samples under way left out."""
NO_VERSION = -1
"""What the gauge of the weight version shows while there is no whole set of weights."""


class Metrics:
    """Counters of one server.

    Args:
        facts: labels that never change.
        gauges: what is read whenever somebody looks: name to (meaning, reader).
    """

    def __init__(self, facts: Mapping[str, str], gauges: Mapping[str, tuple[str, Callable[[], float]]]):
        self.registry = CollectorRegistry()
        Info(PREFIX + "server", "What this server is.", registry=self.registry).info(dict(facts))
        for name, (text, read) in gauges.items():
            Gauge(PREFIX + name, text, registry=self.registry).set_function(read)
        self._samples = self._counter("samples", "Samples generated, by what ended them.", ["finish_reason"])
        self._aborted = self._counter("aborted", "Samples given up before their end.")
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens taken in, a group's shared prompt once.")
        self._response_tokens = self._counter("response_tokens", "Response tokens generated.")
        self._refits = self._counter("refits", "Refits asked for.", ["result"])
        self._refit_bytes = self._counter("refit_bytes", "Bytes of weights taken over.")
        self._requests = self._counter("http_requests", "HTTP requests answered.", ["path", "code"])
        self._sample_s = self._seconds("sample_seconds", "Arrival of a request to the end of a sample.", SAMPLE_BUCKETS)
        self._refit_s = self._seconds("refit_seconds", "Of the refits that brought weights.", REFIT_BUCKETS)

    def arrived(self, prompt_tokens: int) -> None:
        """Count a request that was let in."""
        self._prompt_tokens.inc(prompt_tokens)

    def finished(self, response: Response, seconds: float) -> None:
        """Count a sample."""
        self._samples.labels(response.finish_reason).inc()
        self._response_tokens.inc(len(response.token_ids))
        self._sample_s.observe(seconds)

    def aborted(self, samples: int) -> None:
        """Count samples that will not come."""
        self._aborted.inc(samples)

    def refit(self, result: str, size: int = 0, seconds: float | None = None) -> None:
        """Count a refit: done, refused (the old weights still serve) or failed (none do)."""
        self._refits.labels(result).inc()
        self._refit_bytes.inc(size)
        if seconds is not None:
            self._refit_s.observe(seconds)

    def answered(self, path: str, code: int) -> None:
        """Count an HTTP request."""
        self._requests.labels(path, str(code)).inc()

    def page(self) -> bytes:
        """The text of /metrics."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(PREFIX + name, text, labels or [], registry=self.registry)

    def _seconds(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, text, buckets=buckets, registry=self.registry)


class CountRequests:
    """ASGI middleware: counts each HTTP request by path and status.

    Args:
        app: what is behind it.
        metrics: where it counts.
        paths: counted by name; any other is `other`, so that no client can invent labels.
    """

    def __init__(self, app: Any, metrics: Metrics, paths: frozenset[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, and count it when it ends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        code = 500  # an exception that nobody caught becomes one

        async def note(message: dict[str, Any]) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            self._metrics.answered(scope["path"] if scope["path"] in self._paths else "other", code)
