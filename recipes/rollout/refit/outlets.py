"""Where one pass over the weights goes: a group of servers by broadcasts, or servers that read one folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from crossthink.errors import UserError
from recipes.rollout.refit.channel import ChannelError
from recipes.rollout.refit.collective import CollectiveWriter
from recipes.rollout.refit.files import FilesWriter
from recipes.rollout.refit.meeting import JOIN_S, Meeting
from recipes.rollout.refit.offer import COLLECTIVE, FILES, Offer
from recipes.rollout.refit.servers import Peer, Reply, Servers

GRACE_S = 10.0
"""Seconds for a server to say what has become of it when its weights broke off, or all have been sent."""


@dataclass
class Outcome:
    """What one pass came to: servers that have the weights, servers that have not and why, and those to be sent them
    again, because they broke off by no fault of theirs (and how)."""

    taken: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)


class Outlet(Protocol):
    """One way out. Failures are kept until `judge`: the pass over the weights goes on for the other ranks' sake."""

    broken: str | None
    """Why nothing more is taken; None: it is open."""

    def send(self, name: str, tensor: Tensor) -> None:
        """The next tensor, contiguous; it must keep its values to the end of the pass."""
        ...

    def finish(self, sums: Mapping[str, int]) -> None:
        """All tensors were sent; these are their checksums."""
        ...

    def judge(self, checksum: str | None) -> Outcome:
        """What has become of the servers. `checksum`: of the whole set, where the pass came to its end."""
        ...

    def close(self, why: str) -> None:
        """Leave nothing behind; where the pass has not ended, servers are told why."""
        ...


class CollectiveOutlet:
    """See `Outlet`. Servers that are not ready within the deadline take no part, and again have it for the weights.

    Args:
        servers: to offer by.
        meeting: of this trainer.
        peers: the servers of this outlet.
        offer: what they are offered, without the group.
    """

    def __init__(self, servers: Servers, meeting: Meeting, peers: Mapping[str, Peer], offer: Offer):
        self.broken: str | None = None
        self._meeting, self._offer = meeting, offer
        self._writer: CollectiveWriter | None = None
        self._culprits: set[str] = set()
        limit_s = 2 * offer.timeout_s + JOIN_S + GRACE_S
        groups = meeting.groups({url: peer.ranks for url, peer in peers.items()})
        offers = {url: replace(offer, transport=COLLECTIVE, group=group) for url, group in groups.items()}
        self._replies = {url: servers.offer(url, one, limit_s) for url, one in offers.items()}
        self._members = meeting.gather(time.monotonic() + offer.timeout_s, lambda url: self._replies[url].done())
        self._until = time.monotonic() + offer.timeout_s
        if not self._members:
            self.broken = "no server was ready"
            meeting.call_off(self.broken)
            return
        try:
            channel = meeting.begin(self._members, offer.timeout_s)
            self._writer = CollectiveWriter(channel, offer.bucket_bytes, self._until, self._look)
        except (ChannelError, RuntimeError) as error:
            self._break(error)

    def send(self, name: str, tensor: Tensor) -> None:
        """See `Outlet`."""
        if self._writer is not None:
            try:
                self._writer.send(name, tensor)
            except ChannelError as error:
                self._break(error)

    def finish(self, sums: Mapping[str, int]) -> None:
        """See `Outlet`."""
        if self._writer is not None:
            try:
                self._writer.finish(sums)
                self._writer = None
            except ChannelError as error:
                self._break(error)

    def judge(self, checksum: str | None) -> Outcome:
        """See `Outlet`."""
        outcome = Outcome()
        end = time.monotonic() + min(GRACE_S, self._offer.timeout_s)
        replies = _collect(self._replies, end if self.broken else max(end, self._until))
        for url, reply in replies.items():
            fault = reply.fault(self._offer.version, checksum) if reply else "no answer in time"
            if url not in self._members:
                late = f"was not ready within {self._offer.timeout_s:g} s"
                outcome.lost[url] = late if reply is None or not fault else fault
            elif fault is None:
                outcome.taken.append(url)
            elif self.broken and reply and reply.status is not None and not self._is_culprit(url):
                outcome.again[url] = self.broken
            else:
                outcome.lost[url] = fault
        if len(outcome.taken) < len(self._members):
            self._meeting.leave()  # what was not read may still be on its way, and gloo ends a process over it
        return outcome

    def close(self, why: str) -> None:
        """See `Outlet`."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.abort(why)
            except ChannelError:
                self._meeting.leave()

    def _look(self) -> None:
        """A server that has answered already will take nothing more: the others need not wait for it."""
        for url in self._members:
            if self._replies[url].done() and self._replies[url].result().status != 200:
                self._culprits.add(url)
                raise ChannelError(f"{url} left: {self._replies[url].result().detail}")

    def _break(self, error: Exception) -> None:
        self.broken = str(error)
        self._writer = None
        self._meeting.leave()

    def _is_culprit(self, url: str) -> bool:
        return url in self._culprits or self._meeting.has_failed(url)


class FilesOutlet:
    """See `Outlet`. Servers are offered the folder once it is whole, and then have the deadline to take it over.

    Args:
        servers: to offer by.
        urls: the servers of this outlet.
        weights_dir: where the folder is made.
        offer: what they are offered, without the folder.
    """

    def __init__(self, servers: Servers, urls: list[str], weights_dir: Path, offer: Offer):
        self.broken: str | None = None
        self._servers, self._urls, self._offer = servers, urls, offer
        self._replies: dict[str, Future[Reply]] = {}
        self._writer: FilesWriter | None = None
        try:
            self._writer = FilesWriter(weights_dir, offer.bucket_bytes, offer.checksum)
        except OSError as error:
            self.broken = str(error)

    def send(self, name: str, tensor: Tensor) -> None:
        """See `Outlet`."""
        if self._writer is not None and self.broken is None:
            try:
                self._writer.send(name, tensor)
            except (OSError, UserError) as error:
                self.broken = str(error)

    def finish(self, sums: Mapping[str, int]) -> None:
        """See `Outlet`."""
        if self._writer is None or self.broken is not None:
            return
        try:
            self._writer.finish(sums)
        except (OSError, UserError) as error:
            self.broken = str(error)
            return
        offer = replace(self._offer, transport=FILES, folder=str(self._writer.folder))
        limit_s = offer.timeout_s + GRACE_S
        self._replies = {url: self._servers.offer(url, offer, limit_s) for url in self._urls}

    def judge(self, checksum: str | None) -> Outcome:
        """See `Outlet`."""
        if self.broken is not None:
            return Outcome(lost=dict.fromkeys(self._urls, f"its files could not be written: {self.broken}"))
        outcome = Outcome()
        for url, reply in _collect(self._replies, time.monotonic() + self._offer.timeout_s).items():
            late = f"no answer within {self._offer.timeout_s:g} s"
            fault = reply.fault(self._offer.version, checksum) if reply else late
            if fault is None:
                outcome.taken.append(url)
            else:
                outcome.lost[url] = fault
        return outcome

    def close(self, why: str) -> None:
        """See `Outlet`."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.remove()


def _collect(replies: Mapping[str, Future[Reply]], until: float) -> dict[str, Reply | None]:
    """The replies that came by then; None for the others."""
    wait(replies.values(), timeout=max(0.0, until - time.monotonic()))
    return {url: future.result() if future.done() else None for url, future in replies.items()}
