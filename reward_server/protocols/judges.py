"""Who judges for a function inside a trainer's process: one judge in that process, or reward servers over HTTP."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence

from reward_server.client import RewardClient
from reward_server.local import LocalJudge
from reward_server.verdicts import MATCHES, Item, Verdict

DEADLINE_S = 60.0
"""Seconds for one request to a reward server."""

_Key = tuple[tuple[str, ...], str | None]


def score(
    items: Sequence[Item], url: str | Iterable[str] | None = None, token: str | None = None, match: str = "equivalent"
) -> list[Verdict]:
    """Verdicts in the order of the items. May be called from any thread, and in a fork of a process that called it.

    Args:
        url: a reward server, or several that judge alike; None: judged in this process and its workers.
        token: the servers' shared secret.
        match: rule of the judge in this process, "equivalent" or "exact". Servers have their own.

    Raises:
        ValueError: an unknown `match`, one that is given together with `url`, or an empty `url`.
        RewardUnavailable, RewardRefused, Refused: as the client and the service say; nothing counted as zero.
    """
    check_choice(url, match)
    if url is None:
        return _STATE.judge(match).score(items)
    with _STATE.client((addresses(url), token)) as client:
        return client.score(items)


def check_choice(url: str | Iterable[str] | None, match: str) -> None:
    """Refuse what `score` cannot do. Raises ValueError naming the argument, its value and what is allowed."""
    if match not in MATCHES:
        raise ValueError(f"match={match!r} is not one of {', '.join(MATCHES)}")
    if url is None:
        return
    if match != MATCHES[0]:
        raise ValueError(f"match={match!r} goes with the judge in this process; a reward server is started with match=")
    if not addresses(url):
        raise ValueError("url= is empty: leave it out to judge in this process, or give a reward server's address")


def addresses(url: str | Iterable[str]) -> tuple[str, ...]:
    """One address or several, as plain strings whatever sequence a trainer's configuration makes of them."""
    return (url,) if isinstance(url, str) else tuple(str(one) for one in url)


class _State:
    """What this process has started so far. Judges start with the first call that needs them."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.judges: dict[str, LocalJudge] = {}
        self.idle: dict[_Key, list[RewardClient]] = {}
        self.parents: _State | None = None

    def judge(self, match: str) -> LocalJudge:
        with self.lock:
            if match not in self.judges:
                self.judges[match] = LocalJudge(match)
            return self.judges[match]

    @contextlib.contextmanager
    def client(self, key: _Key) -> Iterator[RewardClient]:
        """A client that nobody else uses now: one serves one caller at a time."""
        with self.lock:
            idle = self.idle.setdefault(key, [])
            client = idle.pop() if idle else None
        client = client or RewardClient(list(key[0]), deadline_s=DEADLINE_S, token=key[1], group="")
        try:
            yield client
        finally:
            with self.lock:
                idle.append(client)


_STATE = _State()


def _after_fork() -> None:
    """A fork has its parent's objects without their threads, perhaps with a lock taken: it starts with none of them."""
    global _STATE
    old, _STATE = _STATE, _State()
    _STATE.parents = old  # kept, as clearing up would reach through shared sockets into the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
