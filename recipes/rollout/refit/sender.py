"""The trainer's side of a refit, on every actor rank: new weights into all rollout servers that can take them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from crossthink.errors import UserError
from recipes.rollout.interface import RefitError, Weights
from recipes.rollout.refit.checksums import SUM64, XXH3
from recipes.rollout.refit.meeting import Meeting, address_towards
from recipes.rollout.refit.offer import COLLECTIVE, FILES, Offer, TensorSpec
from recipes.rollout.refit.push import AUTO, Push
from recipes.rollout.refit.routes import Own
from recipes.rollout.refit.servers import Servers
from recipes.rollout.server.identity import machine, nccl_version
from recipes.spmd import from_first_rank, is_first_rank


@dataclass(frozen=True)
class RefitReport:
    """One refit, equal on all ranks.

    Attributes:
        version: of the weights.
        transport: collective or files, for each server that has them.
        bytes: of one whole set of weights.
        seconds: from the first question to the last reply.
        servers: those that have the weights.
        lost: why each of the others has not.
        checksum: of the whole set; equal for equal weights only where they come from one kind of device.
    """

    version: int
    transport: dict[str, str]
    bytes: int
    seconds: float
    servers: list[str]
    lost: dict[str, str]
    checksum: str


class WeightSender:
    """Sends weights to rollout servers; one on every actor rank. The first rank alone talks to servers.

    Args:
        urls: base addresses; other ranks than the first need not know them.
        transport: collective, files, or auto: collective where both sides have the same libraries.
        bucket_bytes: largest message, or largest file of several tensors.
        weights_dir: folder that actor and servers both see; None: the servers' own, where they run on this machine.
        deadline_s: seconds for servers to get ready, and again for the weights; a server that takes longer is left out.
        token: the servers' shared secret.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        transport: str = AUTO,
        bucket_bytes: int,
        weights_dir: str | None = None,
        deadline_s: float,
        token: str | None = None,
    ):
        if transport not in (AUTO, COLLECTIVE, FILES):
            raise ValueError(f"transport: {transport!r}; allowed are {AUTO}, {COLLECTIVE}, {FILES}")
        self._transport, self._bucket_bytes, self._weights_dir = transport, bucket_bytes, weights_dir
        self._deadline_s = deadline_s
        self._servers = Servers(urls, token) if is_first_rank() else None
        self._meeting: Meeting | None = None
        self._specs: list[TensorSpec] | None = None
        self._said: set[str] = set()
        self._lost: dict[str, str] = {}

    def refit(self, weights: Weights, version: int) -> RefitReport:
        """Bring a whole set of weights into every server that can take it. Collective over the actor's ranks.

        A server that fails, hangs or dies is left out; where that breaks the others off, they are sent everything
        again, by another call of `weights`. Tensors that it yields must keep their values while they are held.

        Args:
            weights: the whole set by Hugging Face name, whole tensors in one order on every rank.
            version: that the servers are to state with what they generate from now on.

        Raises:
            RefitError: no server has taken it, with exit code 75 and each server's reason; or transport=collective and
                a server's libraries differ. On every rank.
        """
        began = time.monotonic()
        push = self._push(version) if is_first_rank() else None
        why = "the trainer failed"
        try:
            while _agreed(lambda: push is not None and push.next_pass()):
                for name, tensor in weights():
                    if push is not None:
                        push.send(name, tensor)
                if push is not None:
                    push.finish_pass()
            found = _agreed(lambda: None if push is None else self._report(push, time.monotonic() - began))
        except BaseException as error:
            why = f"the trainer failed: {type(error).__name__} {error}"
            raise
        finally:
            if push is not None:
                push.close(why)
        return RefitReport(**found)

    def close(self) -> None:
        """Leave the process groups, and close the connections."""
        if self._meeting is not None:
            self._meeting.leave()
            self._meeting = None
        if self._servers is not None:
            self._servers.close()

    def _push(self, version: int) -> Push:
        assert self._servers is not None
        backend = "nccl" if dist.get_backend() == "nccl" else "gloo"
        own = Own(torch.__version__.partition("+")[0], nccl_version(), backend, machine())
        offer = Offer(
            version=version,
            transport=COLLECTIVE,
            bucket_bytes=self._bucket_bytes,
            checksum=XXH3 if backend == "gloo" else SUM64,
            tensors=self._specs,
            timeout_s=self._deadline_s,
        )
        return Push(self._servers, offer, own, self._transport, self._weights_dir, self._meet, self._say)

    def _meet(self) -> Meeting:
        if self._meeting is None:
            assert self._servers is not None
            backend = "nccl" if dist.get_backend() == "nccl" else "gloo"
            self._meeting = Meeting(own_address(self._servers.urls), backend)
        return self._meeting

    def _report(self, push: Push, seconds: float) -> dict[str, Any]:
        self._specs = push.specs
        self._tell_who_is_lost(push)
        return asdict(
            RefitReport(
                version=push.offer.version,
                transport=push.transport,
                bytes=push.bytes,
                seconds=seconds,
                servers=push.taken,
                lost=push.lost,
                checksum=push.checksum or "",
            )
        )

    def _tell_who_is_lost(self, push: Push) -> None:
        """Once, as long as the reason stays."""
        version = push.offer.version
        for url, why in push.lost.items():
            if self._lost.get(url) != why:
                _print(f"rollout server {url} is left out from version {version} on: {why}")
        for url in push.taken:
            if url in self._lost:
                _print(f"rollout server {url} takes part again with version {version}")
        self._lost = dict(push.lost)

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            _print(what)


def _print(what: str) -> None:
    print(f"crossthink: {what}", file=sys.stderr, flush=True)


def own_address(urls: Sequence[str]) -> str:
    """This machine's address for servers to come to: loopback where all of them are on it, else the one on their way.

    Raises:
        RefitError: no server's address is known to this machine.
    """
    found = []
    for url in urls:
        parts = urlsplit(url)
        try:
            found.append(address_towards(parts.hostname or "", parts.port or 80))
        except OSError:
            continue  # one that is unknown has been noted already when it was asked
    if not found:
        raise RefitError(f"None of {', '.join(urls)} is known to this machine.")
    outward = [one for one in found if not one.startswith("127.") and one != "::1"]
    return (outward or found)[0]


def _agreed(made: Callable[[], Any]) -> Any:
    """`from_first_rank`, with its error as a RefitError on every rank."""
    try:
        return from_first_rank(made)
    except RefitError:
        raise
    except UserError as error:
        again = RefitError(str(error))
        again.exit_code = error.exit_code
        raise again from error
