"""The trainer's side of the reward server: verdicts or an error, never a zero made of a failure."""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import httpx

from conf.reward import RewardConfig
from crossthink.errors import EXIT_RESUMABLE, ConfigError, UserError
from reward_server.balance import PARALLEL, Balance, Call, Outage, Server
from reward_server.verdicts import Item, Verdict, show

T = TypeVar("T")

CONNECT_S = 5.0
"""Seconds in which a server must accept a connection."""
KEEP_S = 2.0
"""Seconds that an idle connection is kept: less than servers do, which must not close one that is just being used."""


class RewardUnavailable(UserError):
    """No reward server answered for too long. The run stops, resumable; nothing was counted as zero."""

    exit_code = EXIT_RESUMABLE


class RewardRefused(UserError):
    """A server refused the request, or answered with something that is not a verdict for each item."""


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def retry_after_s(self) -> float | None:
        """What the server asks for, where it says so in seconds."""
        text = self.headers.get("retry-after", "").strip()
        return float(text) if text.isascii() and text.isdigit() else None

    def detail(self) -> str:
        """The server's words, or the beginning of whatever it sent."""
        try:
            return str(json.loads(self.content)["detail"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return show(self.content.decode("utf-8", errors="replace"))


class RewardClient:
    """Scores items on one or several reward servers that judge by the same rules. Safe for one caller at a time.

    A request goes to the server with the fewest items of this client. One that fails is asked again later, elsewhere
    or at the same server, under the same request id: a server never counts it twice. A server that failed is passed
    over for a growing while unless no other is left; one that is full (429) is left alone for as long as it asks.

    Args:
        urls: base addresses, e.g. "http://127.0.0.1:8900".
        deadline_s: seconds for one try of one request.
        outage_limit_s: seconds without an answer of any server before a call fails. "I am full" is an answer.
        token: the servers' shared secret.
        chunk: items per request.
        group: what stands before the names of these settings where the caller has them; messages say it. Empty: a
            caller who sets address and token alone.

    Raises:
        ConfigError: an address is none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        deadline_s: float = RewardConfig.deadline_s,
        outage_limit_s: float = RewardConfig.outage_limit_s,
        token: str | None = None,
        chunk: int = 128,
        group: str = "reward.",
    ):
        if not urls:
            raise ValueError("urls: at least one reward server is needed")
        self.urls = list(dict.fromkeys(url.rstrip("/") for url in urls))
        for url in self.urls:
            _check_address(url, group)
        self.deadline_s = deadline_s
        self.outage_limit_s = outage_limit_s
        self.chunk, self._group = chunk, group
        self._balance = Balance(self.urls)
        self._rules: tuple[str, str] | None = None  # (hash, the server that gave it)
        self._lock = threading.Lock()
        # Servers are addressed directly: a proxy from the environment is for the internet.
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_S),
            trust_env=False,
        )

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rules(self) -> str:
        """The rules hash of the servers; errors as in `rules_info`."""
        return self.rules_info()["rules_hash"]

    def rules_info(self, patience_s: float | None = None) -> dict[str, Any]:
        """What the servers judge by: all that answer are asked, and one must.

        Args:
            patience_s: seconds without an answer before this call fails; absent: `outage_limit_s`. At the start of
                a job a wrong address is more likely than an outage.

        Returns:
            `rules_hash`, and as far as the server tells them `match` and `shaping` (else None).

        Raises:
            RewardUnavailable: none answered.
            RewardRefused: two servers judge by different rules, or one has refused.
        """
        call = self._balance.begin(self.outage_limit_s if patience_s is None else patience_s)
        reply, answered = self._send(call, "GET", "/healthz", None, 0)
        rules = self._agree(reply, answered)
        others = [server for server in self._balance.servers if server is not answered]
        self._side_by_side(call, [partial(self._agree_if_well, server) for server in others])
        return {"rules_hash": rules, "match": reply.get("match"), "shaping": reply.get("shaping")}

    def score(self, items: Sequence[Item]) -> list[Verdict]:
        """Verdicts in the order of the items.

        Raises:
            RewardUnavailable: no server answered for `outage_limit_s`; names the servers, the last failure of each
                and what to do.
            RewardRefused: a server refused the request for good, its reply does not match the request, or it judges
                by other rules than the servers did before.
            ValueError: two items have one id.
        """
        if len({item.id for item in items}) != len(items):
            raise ValueError("items: ids must be unique, as verdicts are matched by id")
        call = self._balance.begin(self.outage_limit_s)
        chunks = [items[start : start + self.chunk] for start in range(0, len(items), self.chunk)]
        judged = self._side_by_side(call, [partial(self._score_chunk, call, chunk) for chunk in chunks])
        return [verdict for verdicts in judged for verdict in verdicts]

    def _score_chunk(self, call: Call, items: Sequence[Item]) -> list[Verdict]:
        # The id stays the same in every try: a server that has the request already gives the verdicts it has.
        body = {"request_id": uuid.uuid4().hex, "items": [item.to_json() for item in items]}
        reply, server = self._send(call, "POST", "/v1/score", json.dumps(body).encode("ascii"), len(items))
        self._agree(reply, server)
        try:
            verdicts = [Verdict.from_json(obj) for obj in reply["items"]]
        except (KeyError, TypeError, ValueError) as error:
            raise RewardRefused(f"{server.name} answered with something else than verdicts: {error}.") from error
        found = {verdict.id: verdict for verdict in verdicts}
        if len(found) != len(verdicts) or found.keys() != {item.id for item in items}:
            raise RewardRefused(
                f"{server.name} was asked for {len(items)} verdicts and gave {len(verdicts)}, {len(found)} of them "
                f"different; {len({item.id for item in items} - found.keys())} ids are missing. Is it a CrossThink "
                "reward server?"
            )
        return [found[item.id] for item in items]

    def _send(self, call: Call, method: str, path: str, body: bytes | None, items: int) -> tuple[Any, Server]:
        """(reply, server) of the first server that serves the request."""
        while True:
            try:
                server = self._balance.take(items, call)
            except Outage as error:
                raise self._unavailable(call) from error
            began = time.monotonic()
            # A silent server may not hold up the end of an outage.
            limit_s = max(0.01, min(self.deadline_s, self._balance.left_s(call)))
            try:
                reply = self._exchange(method, server.url + path, body, limit_s)
            except (httpx.TransportError, httpx.DecodingError) as error:
                self._balance.failed(server, items, began, _describe(error, limit_s))
                continue
            except BaseException:
                self._balance.release(server, items)
                raise
            message = f"answered {reply.status}: {reply.detail()}" if reply.status != 200 else ""
            if reply.status == 429:
                self._balance.busy(server, items, reply.retry_after_s)
            elif reply.status == 408 or reply.status >= 500:
                self._balance.failed(server, items, began, message, reply.retry_after_s)
            else:
                self._balance.answered(server, items)
                if reply.status != 200:
                    raise RewardRefused(f"{server.name} {message}")
                return _decode(reply, server), server

    def _exchange(self, method: str, url: str, body: bytes | None, limit_s: float) -> _Reply:
        """One request and its reply. A server that sends byte by byte gets no more time than one that is silent."""
        end = time.monotonic() + limit_s
        timeout = httpx.Timeout(limit_s, connect=min(limit_s, CONNECT_S))
        headers = {} if body is None else {"Content-Type": "application/json"}
        content = bytearray()
        with self._http.stream(method, url, content=body, headers=headers, timeout=timeout) as reply:
            for part in reply.iter_bytes():
                content += part
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("the reply did not end")
        return _Reply(reply.status_code, reply.headers, bytes(content))

    def _side_by_side(self, call: Call, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """The results of the jobs in their order, done by as many threads as the servers take requests.

        The first failure is raised at once, without waiting for requests that are under way.
        """
        waiting: queue.SimpleQueue[tuple[int, Callable[[], T]]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
        for numbered in enumerate(jobs):
            waiting.put(numbered)

        def work() -> None:
            while not call.stopped.is_set():
                try:
                    number, job = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((number, job(), None))
                except BaseException as error:  # the thread's boundary: raised again by the caller below
                    done.put((number, None, error))

        for _ in range(min(len(jobs), PARALLEL * len(self.urls))):
            threading.Thread(target=work, name="reward-client", daemon=True).start()
        results: dict[int, T] = {}
        try:
            while len(results) < len(jobs):
                number, result, error = done.get()
                if error is not None:
                    raise error
                results[number] = result
        finally:
            self._balance.stop(call)
        return [results[number] for number in range(len(jobs))]

    def _agree_if_well(self, server: Server) -> None:
        """Hold a server to the rules of the others; one that is down is no reason to stop."""
        try:
            reply = self._exchange("GET", server.url + "/healthz", None, min(self.deadline_s, CONNECT_S))
        except (httpx.TransportError, httpx.DecodingError):
            return  # said by the balance as soon as it is needed
        if reply.status == 200:
            self._agree(_decode(reply, server), server)

    def _agree(self, reply: Any, server: Server) -> str:
        given = reply.get("rules_hash") if isinstance(reply, dict) else None
        if not isinstance(given, str):
            raise RewardRefused(f"{server.name} gave no rules_hash. Is it a CrossThink reward server?")
        with self._lock:
            if self._rules is None:
                self._rules = (given, server.name)
            known, first = self._rules
        if given != known:
            other = f"and judged by rules {known} before" if first == server.name else f"{first} by rules {known}"
            raise RewardRefused(
                f"{server.name} judges by rules {given}, {other}. Give all servers of {self._group}url one version, "
                "one match= and one shaping."
            )
        return given

    def _unavailable(self, call: Call) -> RewardUnavailable:
        longer = f", or raise {self._group}outage_limit_s=" if self._group else ""
        return RewardUnavailable(
            f"No reward server has answered for {call.limit_s:g} s ({self._balance.errors()}). Start one with "
            f"`crossthink serve-reward`, check {self._group}url={longer}."
        )


def _check_address(url: str, group: str) -> None:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL("")
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigError(f"{group}url: {show(url)} is no address such as http://127.0.0.1:8900.")


def _decode(reply: _Reply, server: Server) -> Any:
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError) as error:
        raise RewardRefused(f"{server.name} answered with something else than JSON: {reply.detail()}.") from error


def _describe(error: Exception, limit_s: float) -> str:
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return f"no whole answer within {limit_s:.3g} s"
    return f"{type(error).__name__} {error}".strip()
