"""The trainer's HTTP to rollout servers for a refit: what each one is, and the offers to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import httpx

from recipes.rollout.refit.offer import Offer

CONNECT_S = 5.0
ASK_S = 20.0
"""Seconds in which a server must say what it is."""


@dataclass(frozen=True)
class Peer:
    """What a server says of itself; see `GET /v1/refit`."""

    torch: str
    nccl: str | None
    backend: str
    ranks: int
    machine: str
    weights_dir: str

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Peer:
        """Raises KeyError, TypeError or ValueError where it is something else."""
        peer = cls(**{name: value[name] for name in cls.__dataclass_fields__})
        texts = (peer.torch, peer.backend, peer.machine, peer.weights_dir)
        if not all(isinstance(one, str) for one in texts) or type(peer.ranks) is not int or peer.ranks < 1:
            raise ValueError("fields of other types")
        return peer


@dataclass(frozen=True)
class Reply:
    """What came of an offer. `status` is None where no answer came; `detail` then says why."""

    status: int | None
    detail: str
    version: int | None = None
    checksum: str | None = None

    def fault(self, version: int, checksum: str | None) -> str | None:
        """Why the server has not got these weights; None: it has."""
        if self.status != 200:
            return self.detail if self.status is None else f"answered {self.status}: {self.detail}"
        if self.version != version:
            return f"took version {self.version} over where {version} was sent"
        if self.checksum != checksum:
            return f"took other weights over: their checksum is {self.checksum}, of those sent it is {checksum}"
        return None


class Servers:
    """Talks to all of them side by side. Threads that wait for one that hangs end with the process.

    Args:
        urls: base addresses.
        token: the servers' shared secret.
    """

    def __init__(self, urls: Sequence[str], token: str | None):
        self.urls = list(dict.fromkeys(url.rstrip("/") for url in urls))
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )

    def ask(self) -> dict[str, Peer | str]:
        """What each server is, or why it is out of reach."""
        jobs = {url: _beside(self._ask, url) for url in self.urls}
        return {url: job.result() for url, job in jobs.items()}

    def offer(self, url: str, offer: Offer, limit_s: float) -> Future[Reply]:
        """Offer weights to one server; its reply comes when it has taken them over, or not."""
        return _beside(self._offer, url, offer, limit_s)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, url: str) -> Peer | str:
        try:
            reply = self._http.get(url + "/v1/refit", timeout=httpx.Timeout(ASK_S, connect=CONNECT_S))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _describe(error)
        if reply.status_code != 200:
            return f"answered {reply.status_code}: {_detail(reply)}"
        try:
            return Peer.from_json(reply.json())
        except (KeyError, TypeError, ValueError):
            return "answered GET /v1/refit with something else than a rollout server does"

    def _offer(self, url: str, offer: Offer, limit_s: float) -> Reply:
        timeout = httpx.Timeout(limit_s, connect=CONNECT_S)
        try:
            reply = self._http.post(url + "/v1/refit", json=offer.to_json(), timeout=timeout)
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: closed meanwhile
            return Reply(None, _describe(error))
        if reply.status_code != 200:
            return Reply(reply.status_code, _detail(reply))
        try:
            body = reply.json()
            return Reply(200, "", body["version"], body["checksum"])
        except (KeyError, TypeError, ValueError):
            return Reply(None, "answered an offer with something else than a rollout server does")


def _beside(work: Any, *args: Any) -> Future[Any]:
    """Run it in a thread that holds up nobody's end."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args))
        except BaseException as error:  # the thread's boundary: raised again by whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="refit-http", daemon=True).start()
    return future


def _detail(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:200]


def _describe(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
