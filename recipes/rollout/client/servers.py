"""What is known of each rollout server, and how a trainer looks after one."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from crossthink.errors import EXIT_RESUMABLE, ConfigError, UserError
from reward_server.balance import shown
from reward_server.verdicts import show

FIRST_REST_S = 0.25
"""Pause before a failed server is looked at again; doubles with each failure, up to `LONGEST_REST_S`."""
LONGEST_REST_S = 15.0
FIRST_PAUSE_S = 0.5
"""Pause after a 429 or 503 that names none."""
LEAST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 60.0
"""Least and most seconds of a Retry-After that are kept to."""
MOST_FAILURES = 5
"""Failures without one finished sample between them before a server is left out of a call. One that accepts work and
then breaks would otherwise be given it for ever."""


class NoServersError(UserError):
    """No rollout server has generated for too long. The run stops, resumable; its samples were not made up."""

    exit_code = EXIT_RESUMABLE


@dataclass
class Server:
    """One rollout server. Times are monotonic seconds.

    Attributes:
        url: its base address.
        name: the address as it may be shown: without secrets.
        error: the last thing known against it; None: nothing.
        down: it failed, and has not been seen well since.
        left_out: it is not asked in this call any more.
        lost: it answers, and has not got the weights wanted: it was started again.
        failures: failures since it last finished a sample.
        rests: looks in a row that found it down.
        look_at: when a server that is down is looked at next.
        ask_after: when one that is full or not ready is asked next.
        said_waiting: this call has said that the server lets it wait.
    """

    url: str
    name: str = field(init=False)
    error: str | None = None
    down: bool = False
    left_out: bool = False
    lost: bool = False
    failures: int = 0
    rests: int = 0
    look_at: float = 0.0
    ask_after: float = 0.0
    said_waiting: bool = False

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        self.name = shown(self.url)
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > 65535:
            raise ConfigError(f"rollout.url: {show(self.name)} is no address such as http://127.0.0.1:8001.")

    @property
    def in_use(self) -> bool:
        """Whether it takes part in this call."""
        return not self.down and not self.left_out

    def begin_call(self) -> None:
        """Forget what held for one call only."""
        self.left_out = self.said_waiting = self.lost = False
        self.failures = self.rests = 0
        self.look_at = self.ask_after = 0.0

    def fail(self, error: str, now: float) -> None:
        """It cannot be used, until a look finds it well."""
        self.error, self.down = error, True
        self.failures += 1
        self.left_out = self.left_out or self.failures >= MOST_FAILURES
        self.look_at = now + _growing(self.failures - 1)

    def looked(self, problem: str | None, now: float, lost: bool = False) -> None:
        """A look at it was taken; None: it is well."""
        self.lost = lost
        if problem is None:
            self.error, self.down, self.rests = None, False, 0
            return
        self.error = problem
        self.rests += 1
        self.look_at = now + _growing(self.rests)

    def wait(self, error: str, retry_after_s: float | None, now: float) -> float:
        """It asks to be left alone for a while. Returns the seconds."""
        self.error = error
        seconds = FIRST_PAUSE_S if retry_after_s is None else min(max(retry_after_s, LEAST_PAUSE_S), LONGEST_PAUSE_S)
        seconds *= random.uniform(1.0, 1.25)
        self.ask_after = now + seconds
        return seconds


def problem_of(status: int, content: bytes, version: int | None) -> str | None:
    """What a server's /healthz says against asking it.

    Args:
        status: of the reply.
        content: its body.
        version: weight version wanted; None: any whole set of weights.

    Returns:
        None: it can be asked.
    """
    if status != 200:
        return f"/healthz answered {status}: {detail(content)}"
    fields = decoded(content)
    if fields.get("status") != "ok" or "version" not in fields or "engine" not in fields:
        return f"is no CrossThink rollout server: /healthz answered {detail(content)}"
    have = fields["version"]
    if have is None:
        return "has no whole set of weights"
    if version not in (None, have):
        return f"has weight version {have}; {version} is wanted"
    return None


def has_lost(status: int, content: bytes, version: int | None) -> bool:
    """Whether /healthz says that all is well but for the weights; arguments as of `problem_of`."""
    return status == 200 and "engine" in decoded(content) and problem_of(status, content, version) is not None


def detail(content: bytes) -> str:
    """The server's own words for an error, or the beginning of whatever it sent."""
    said = decoded(content).get("detail")
    return said if isinstance(said, str) else show(content.decode("utf-8", errors="replace"))


def decoded(content: bytes) -> dict[str, Any]:
    """A body as a JSON object; empty where it is none."""
    try:
        fields = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def describe(error: Exception) -> str:
    """A failure of the connection in a few words."""
    return f"{type(error).__name__} {error}".strip()


def known_against(servers: list[Server]) -> str:
    """The last failure of each server, for a message."""
    return "; ".join(f"{server.name}: {server.error or 'no answer'}" for server in servers)


def say(what: str) -> None:
    """One line for the user, on stderr."""
    print(f"crossthink: {what}", file=sys.stderr, flush=True)


def _growing(times: int) -> float:
    """A pause that doubles with each time up to a limit, with a random share taken off."""
    return min(FIRST_REST_S * 2.0 ** min(times, 30), LONGEST_REST_S) * random.uniform(0.75, 1.0)
