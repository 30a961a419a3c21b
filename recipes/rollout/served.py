"""Rollout servers as the training loop sees them: one engine that is refitted and asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from conf.rollout import RolloutConfig
from crossthink.secret import read_secret
from recipes.rollout.client.client import RolloutClient
from recipes.rollout.interface import Request, Response, SamplingParams, Weights
from recipes.rollout.refit.sender import RefitReport, WeightSender
from recipes.spmd import from_first_rank, is_first_rank


class ServedRollouts:
    """Implements `recipes.rollout.interface.RemoteEngine`. One on every rank of the actor; the first one talks HTTP."""

    def __init__(self, urls: Sequence[str], config: RolloutConfig) -> None:
        """
        Args:
            urls: the servers; other ranks than the first need not know them.
            config: deadlines, transport, secret.
        """
        self.version: int | None = None
        self._colocated = config.colocated
        token = read_secret(config.token, "rollout.token")
        self._sender = WeightSender(
            urls,
            transport=config.transport,
            bucket_bytes=int(config.bucket_mb * 2**20),
            weights_dir=config.weights_dir,
            deadline_s=config.refit_deadline_s,
            token=token,
        )
        self._client = None
        if is_first_rank():
            self._client = RolloutClient(
                urls, token=token, deadline_s=config.deadline_s, outage_limit_s=config.outage_limit_s
            )
        self._reports: list[RefitReport] = []

    def refit(self, weights: Weights, version: int) -> None:
        """See `RolloutEngine.refit`. Servers that take nothing are left out until the next one.

        Raises:
            RefitError: no server took the weights; with exit code 75.
        """
        if self._colocated:
            from_first_rank(lambda: self._post("/v1/wake"))
        report = self._sender.refit(weights, version)
        self.version = version
        if self._client is not None:
            self._reports.append(report)
            self._client.use(report.servers)

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[tuple[int, Response]]:
        """See `RemoteEngine.stream`."""
        assert self._client is not None
        return self._client.stream(requests, params, self.version)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[Response]:
        """See `RolloutEngine.generate`. On the first rank."""
        found = dict(self.stream(requests, params))
        return [found[index] for index in range(len(requests))]

    def rest(self) -> None:
        """See `RemoteEngine.rest`."""
        if self._colocated:
            from_first_rank(lambda: self._post("/v1/sleep"))

    def metrics(self) -> dict[str, float]:
        """See `RemoteEngine.metrics`: rate and servers of refits, samples asked again, and what the client says."""
        assert self._client is not None
        reports, self._reports = self._reports, []
        found = {f"rollout_{name}": float(value) for name, value in self._client.stats().items()}
        if reports:
            seconds = sum(report.seconds for report in reports)
            found |= {
                "refit_bytes_per_second": sum(report.bytes for report in reports) / max(seconds, 1e-9),
                "rollout_servers": float(len(reports[-1].servers)),
            }
        return found

    def close(self) -> None:
        """See `RemoteEngine.close`."""
        if self._client is not None:
            self._client.close()
        self._sender.close()

    def _post(self, path: str) -> None:
        assert self._client is not None
        self._client.post_all(path)
