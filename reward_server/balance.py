"""Which reward server is asked next: the least busy one that is well. Knows servers and times, no requests."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

PARALLEL = 4
"""Requests of one client that a server has at a time; one that failed gets one until it answers."""
FIRST_PAUSE_S = 0.1
"""Longest pause after a first failure, where no other server is well; doubles with each, up to `LONGEST_PAUSE_S`."""
LONGEST_PAUSE_S = 5.0
FIRST_REST_S = 1.0
"""The same where another server is well: a server that hangs costs a whole request each time it is tried."""
LONGEST_REST_S = 60.0
LONGEST_BUSY_S = 60.0
"""Most seconds of a Retry-After that are kept to."""


@dataclass
class Server:
    """What is known of one server.

    Attributes:
        url: its base address.
        name: the address as it may be shown: without secrets.
        items: items that it has to judge now, of this client.
        requests: requests under way.
        failures: tries in a row that failed; those that ran side by side count once.
        error: the last failure; None since it answered.
        failed_at: when `failures` was last raised, monotonic seconds, as all times here.
        ask_after: earliest time of the next try after a failure.
        pass_until: the same where another server is well.
        busy: replies 429 in a row.
        busy_until: earliest time of the next try after a 429.
        said_busy: this call of the client has logged that it is busy.
    """

    url: str
    name: str
    items: int = 0
    requests: int = 0
    failures: int = 0
    error: str | None = None
    failed_at: float = 0.0
    ask_after: float = 0.0
    pass_until: float = 0.0
    busy: int = 0
    busy_until: float = 0.0
    said_busy: bool = False


class Outage(Exception):
    """No server has answered for as long as was allowed."""


class Stopped(Exception):
    """The call that wanted a server was given up."""


class Call:
    """One call of the client: when it began, how long an outage it bears, and whether it was given up.

    Args:
        limit_s: seconds without an answer of any server.
    """

    def __init__(self, limit_s: float):
        self.limit_s = limit_s
        self.began = time.monotonic()
        self.stopped = threading.Event()


class Balance:
    """Deals out servers to the threads of one client.

    Whoever takes a server gives it back with one of `answered`, `busy`, `failed` and `release`.

    Args:
        urls: base addresses.
    """

    def __init__(self, urls: Sequence[str]):
        self.servers = [Server(url, shown(url)) for url in urls]
        self._changed = threading.Condition()
        self._answered_at = 0.0

    def begin(self, limit_s: float) -> Call:
        """A new call: the time without an answer is counted anew, and so is what was logged once."""
        with self._changed:
            for server in self.servers:
                server.said_busy = False
        return Call(limit_s)

    def stop(self, call: Call) -> None:
        """Give a call up: whoever waits for a server in its name gets `Stopped`."""
        with self._changed:
            call.stopped.set()
            self._changed.notify_all()

    def left_s(self, call: Call) -> float:
        """Seconds until the servers' silence has lasted as long as the call bears."""
        return max(call.began, self._answered_at) + call.limit_s - time.monotonic()

    def take(self, items: int, call: Call) -> Server:
        """The well server with the fewest items, ties at random; waits until there is one to ask.

        Raises:
            Outage: no server has answered for the call's limit.
            Stopped: the call was given up.
        """
        with self._changed:
            while True:
                if call.stopped.is_set():
                    raise Stopped
                left_s = self.left_s(call)
                if left_s <= 0:
                    raise Outage
                server, wait_s = self._next()
                if server is not None:
                    server.items += items
                    server.requests += 1
                    return server
                self._changed.wait(min(wait_s, left_s))

    def answered(self, server: Server, items: int) -> None:
        """The server gave a proper reply."""
        with self._changed:
            server.busy = 0
            self._alive(server)
            self._give_back(server, items)

    def busy(self, server: Server, items: int, retry_after_s: float | None) -> None:
        """The server is alive and full; it is left alone for as long as it asks for."""
        with self._changed:
            if retry_after_s is None:
                pause_s = _growing(FIRST_PAUSE_S, LONGEST_PAUSE_S, server.busy)
            else:
                pause_s = min(retry_after_s, LONGEST_BUSY_S) * random.uniform(1.0, 1.25)
            server.busy += 1
            self._alive(server)
            server.busy_until = max(server.busy_until, time.monotonic() + pause_s)
            self._answered_at = max(self._answered_at, server.busy_until)  # silence as asked for is no outage
            if not server.said_busy:
                log.warning("reward server %s is busy (429): asking again as it allows", server.name)
                server.said_busy = True
            self._give_back(server, items)

    def failed(self, server: Server, items: int, began: float, error: str, retry_after_s: float | None = None) -> None:
        """The server could not be asked, or could not serve. `began`: when the request was sent."""
        with self._changed:
            server.error = error
            if server.failures == 0 or began >= server.failed_at:
                now = time.monotonic()
                server.failed_at = now
                pause_s = _growing(FIRST_PAUSE_S, LONGEST_PAUSE_S, server.failures)
                server.ask_after = now + max(pause_s, min(retry_after_s or 0.0, LONGEST_BUSY_S))
                rest_s = _growing(FIRST_REST_S, LONGEST_REST_S, server.failures)
                server.pass_until = max(server.ask_after, now + rest_s)
                server.failures += 1
                if server.failures == 1:
                    log.warning("reward server %s cannot be used (%s): trying again", server.name, error)
            self._give_back(server, items)

    def release(self, server: Server, items: int) -> None:
        """Nothing was learned of the server."""
        with self._changed:
            self._give_back(server, items)

    def errors(self) -> str:
        """What is known against each server, for a message."""
        return "; ".join(f"{server.name}: {server.error or 'no answer'}" for server in self.servers)

    def _next(self) -> tuple[Server | None, float]:
        """The server to ask now, or None and the seconds after which there may be one."""
        now = time.monotonic()
        one_is_well = any(server.failures == 0 for server in self.servers)
        soonest = float("inf")
        ready = []
        for server in self.servers:
            if server.requests >= (1 if server.failures else PARALLEL):
                continue  # whoever gives it back wakes the waiting
            due = max(server.busy_until, server.pass_until if one_is_well else server.ask_after)
            if due <= now:
                ready.append(server)
            soonest = min(soonest, due)
        if not ready:
            return None, soonest - now
        return min(ready, key=lambda server: (server.items, random.random())), 0.0

    def _alive(self, server: Server) -> None:
        self._answered_at = max(self._answered_at, time.monotonic())
        if server.failures:
            log.warning("reward server %s is back", server.name)
        server.failures, server.error = 0, None
        server.ask_after = server.pass_until = 0.0

    def _give_back(self, server: Server, items: int) -> None:
        server.items -= items
        server.requests -= 1
        self._changed.notify_all()


def shown(url: str) -> str:
    """An address without the secrets that it may carry: a token in the path, a password before the host."""
    return re.sub(r"(/t/)[^/]+", r"\1…", re.sub(r"//[^/@]*@", "//…@", url))


def _growing(first_s: float, longest_s: float, times: int) -> float:
    """A pause that doubles with each time up to a limit, with a random share taken off."""
    return min(first_s * 2.0 ** min(times, 30), longest_s) * random.uniform(0.5, 1.0)
