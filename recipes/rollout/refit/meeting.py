"""How the sender of a refit and the servers' seats find each other: who has come is known before anything is sent.

Every seat writes into the sender's store that it is ready; the sender then writes who takes part. A server that is
gone, busy or unwilling is so left out before it could hold up the others, and those whose process group still stands
use it again.
"""

from __future__ import annotations

import datetime
import json
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

from torch.distributed import PrefixStore, Store, TCPStore

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.channel import Channel, ChannelError, first_line
from recipes.rollout.refit.offer import Group

POLL_S = 0.01
STORE_S = 30.0
"""Seconds for one answer of the store."""
JOIN_S = 60.0
"""Seconds for the process group of servers that have all just said that they are ready."""


class Meeting:
    """The sender's side: keeps the store, and the process group for as long as the same servers come.

    Args:
        host: address on which the servers reach this process.
        backend: gloo or nccl.
    """

    def __init__(self, host: str, backend: str):
        self.host, self.backend = host, backend
        self._name = uuid.uuid4().hex
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, 0), family=family, backlog=1024)  # torch would listen on every address
        self._port = listener.getsockname()[1]
        self._store = TCPStore(
            host, self._port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(),
            timeout=datetime.timedelta(seconds=STORE_S),
        )  # fmt: skip
        self._turn = 0
        self._channel: Channel | None = None
        self._channel_name = ""
        self._members: list[str] = []

    def groups(self, ranks: Mapping[str, int]) -> dict[str, Group]:
        """Begin a turn: the group to offer to each server.

        Args:
            ranks: seats of each server, by address.
        """
        self._turn += 1
        world, groups = 1 + sum(ranks.values()), {}
        first = 1
        for url, count in ranks.items():
            groups[url] = Group(self._name, self.host, self._port, world, first, self._turn, self.backend)
            first += count
        self._offered = {url: range(group.first, group.first + ranks[url]) for url, group in groups.items()}
        return groups

    def gather(self, until: float, is_out: Callable[[str], bool]) -> list[str]:
        """Wait until every server of this turn is ready or out of it. Returns those that are ready.

        Args:
            until: `time.monotonic()` at which the ready ones go on without the others.
            is_out: whether a server has already said that it takes no part.
        """
        while True:
            ready = [url for url in self._offered if not is_out(url) and self._is_ready(url)]
            missing = [url for url in self._offered if url not in ready and not is_out(url)]
            if not missing or time.monotonic() > until:
                return ready
            time.sleep(POLL_S)

    def begin(self, members: Sequence[str], timeout_s: float) -> Channel:
        """Tell the seats who takes part, and join them.

        Args:
            members: servers that `gather` gave.
            timeout_s: seconds for all to come together; `JOIN_S` at most.

        Raises:
            ChannelError: one of them did not come after all.
        """
        ranks = [rank for url in members for rank in self._offered[url]]
        held = [json.loads(self._store.get(self._key("ready", rank))) for rank in ranks]
        if self._channel is None or self._members != list(members) or any(one != self._channel_name for one in held):
            self.leave()
            self._channel_name = f"{self._name}/{self._turn}/group"
        self._store.set(self._key("go"), json.dumps({"group": self._channel_name, "ranks": ranks}))
        if self._channel is None:
            self._members = list(members)
            store = PrefixStore(self._channel_name, self._store)
            self._channel = Channel(store, 0, 1 + len(ranks), self.backend, self.host, min(JOIN_S, timeout_s))
        return self._channel

    def call_off(self, why: str) -> None:
        """Send the seats that wait home again; they have touched nothing."""
        self._store.set(self._key("go"), json.dumps({"off": why}))

    def has_failed(self, url: str) -> bool:
        """Whether a seat of the server left this turn for a reason of its own."""
        return any(self._store.check([self._key("failed", rank)]) for rank in self._offered[url])

    def leave(self) -> None:
        """Close the process group; the next turn makes a new one."""
        if self._channel is not None:
            self._channel.close()
        self._channel, self._channel_name = None, ""

    def _is_ready(self, url: str) -> bool:
        return self._store.check([self._key("ready", rank) for rank in self._offered[url]])

    def _key(self, *words: object) -> str:
        return "/".join(map(str, (self._name, self._turn, *words)))


class Groups:
    """The receiver's side, kept by each process that holds weights: the trainers that it has met."""

    def __init__(self) -> None:
        self._stores: dict[str, Store] = {}
        self._channels: dict[str, tuple[str, Channel]] = {}

    def join(self, group: Group, seat: int, timeout_s: float) -> Channel:
        """Say that this seat is ready, and come together with the sender and the other seats.

        Raises:
            RefitError: the sender is out of reach, went on without this server, or called it off.
        """
        base, rank = f"{group.name}/{group.turn}", group.first + seat
        name, channel = self._channels.get(group.name, ("", None))
        try:
            store = self._store(group)
            store.set(f"{base}/ready/{rank}", json.dumps(name))
            store.wait([f"{base}/go"], datetime.timedelta(seconds=timeout_s))
            word = json.loads(store.get(f"{base}/go"))
        except RuntimeError as error:
            self.leave(group)
            raise RefitError(f"The trainer at {group.host}:{group.port} did not go on: {first_line(error)}") from error
        if "off" in word:
            raise RefitError(f"The trainer called the refit off: {word['off']}")
        if rank not in word["ranks"]:
            raise RefitError("The trainer went on without this server, which was ready too late.")
        if channel is not None and word["group"] == name:
            return channel
        if channel is not None:
            channel.close()
        place, world = 1 + word["ranks"].index(rank), 1 + len(word["ranks"])
        try:
            own = address_towards(group.host, group.port)
            limit_s = min(JOIN_S, timeout_s)
            channel = Channel(PrefixStore(word["group"], store), place, world, group.backend, own, limit_s)
        except ChannelError as error:
            self._channels.pop(group.name, None)
            raise RefitError(f"Refit: {error}") from error
        self._channels[group.name] = (word["group"], channel)
        return channel

    def failed(self, group: Group, seat: int, why: str) -> None:
        """Leave for a reason of this server's own, so that the sender does not take it for another's."""
        try:
            self._store(group).set(f"{group.name}/{group.turn}/failed/{group.first + seat}", why[:1000])
        finally:
            self.leave(group)

    def leave(self, group: Group) -> None:
        """Leave the process group; the next refit makes a new one."""
        _, channel = self._channels.pop(group.name, ("", None))
        if channel is not None:
            channel.close()

    def close(self) -> None:
        """Leave all of them."""
        for _, channel in self._channels.values():
            channel.close()
        self._channels.clear()
        self._stores.clear()

    def _store(self, group: Group) -> Store:
        if group.name not in self._stores:
            # One trainer at a time: those of before have ended, or will meet anew.
            self.close()
            self._stores[group.name] = TCPStore(
                group.host, group.port, is_master=False, wait_for_workers=False,
                timeout=datetime.timedelta(seconds=STORE_S),
            )  # fmt: skip
        return self._stores[group.name]


def address_towards(host: str, port: int) -> str:
    """This machine's own address on the way to another; nothing is sent."""
    kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return probe.getsockname()[0]
