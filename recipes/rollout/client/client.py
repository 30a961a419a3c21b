"""The trainer's side of rollout servers: every sample asked for, from whichever servers are alive, or an error."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from crossthink.errors import UserError
from recipes.rollout.client.asking import Asking, Counters, Terms
from recipes.rollout.client.servers import (
    Server,
    decoded,
    describe,
    detail,
    known_against,
    problem_of,
    say,
)
from recipes.rollout.interface import Request, Response, SamplingParams

INFO_S = 30.0
"""Seconds in which a server must say what it is."""
POLL_S = 0.2
INFO_BYTES = 64 * 2**20


class RolloutClient:
    """Asks rollout servers for samples. One call at a time.

    Groups go to the server with the fewest outstanding tokens, and are handed out little by little: a slow server gets
    fewer of them. A server that fails is marked down, its unfinished samples are asked of others, under the same
    numbers (so a deterministic engine draws the same tokens), and it is used again once it is well and has the weights.

    Args:
        urls: base addresses, e.g. "http://127.0.0.1:8001".
        token: the servers' shared secret.
        deadline_s: seconds without a line from a server before its samples are asked of another.
        outage_limit_s: seconds without any server before a call fails.
        connect_s: seconds in which a server must accept a connection, and answer a look at its health.

    Raises:
        ConfigError: an address is none.
        ValueError: no address.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str | None = None,
        deadline_s: float,
        outage_limit_s: float,
        connect_s: float = 5.0,
    ):
        self._servers = [Server(url) for url in dict.fromkeys(url.rstrip("/") for url in urls)]
        if not self._servers:
            raise ValueError("urls: at least one rollout server is needed")
        self._in_service = self._servers
        self.urls = [server.url for server in self._servers]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._terms = Terms(headers, deadline_s, outage_limit_s, connect_s)
        self._counters = Counters()
        self._busy = threading.Lock()
        self._ending = threading.Lock()
        self._cancel: Callable[[], object] | None = None

    def __enter__(self) -> RolloutClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the call under way, if there is one: servers drop its samples, its reader gets an error."""
        with self._ending:
            if self._cancel is not None:
                self._cancel()

    def use(self, urls: Sequence[str]) -> None:
        """Ask only these of the servers from now on: those that have taken the weights whole."""
        wanted = {url.rstrip("/") for url in urls}
        self._in_service = [server for server in self._servers if server.url in wanted]

    def post_all(self, path: str) -> None:
        """Tell every server that is there to do something that has no answer but its success.

        Args:
            path: /v1/sleep or /v1/wake.

        Raises:
            UserError: a server refused; names it. One that cannot be reached is left to the next call to find.
        """
        for url in self.urls:
            try:
                reply = httpx.post(
                    url + path, headers=self._terms.headers, timeout=self._terms.deadline_s, trust_env=False
                )
            except httpx.TransportError as error:
                say(f"rollout server {url}: {path}: {describe(error)}")
                continue
            if reply.status_code != httpx.codes.OK:
                raise UserError(f"Rollout server {url}: {path}: {reply.status_code}: {reply.text[:500]}")

    def stream(
        self, requests: Sequence[Request], params: SamplingParams, version: int | None
    ) -> Iterator[tuple[int, Response]]:
        """(index of the request, its response) as they finish, each once. Nothing is asked before the first `next`.

        Closing the iterator early gives up what is under way. Any thread may read it.

        Args:
            requests: what is wanted. Those with one `prompt` number are samples of one prompt.
            params: how to draw.
            version: weight version that must have drawn it; None: any.

        Raises:
            NoServersError: no server for `outage_limit_s`, or none with these weights; names each and its last failure.
            LostWeightsError: servers answer, and none has these weights any more.
            RequestError: a server refused the request: every server would.
            UserError: the token is wrong, or the client was closed meanwhile.
            ValueError: two requests have the same numbers.
            RuntimeError: another call is under way.
        """
        if not requests:
            return
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("a rollout client serves one call at a time")
        try:
            results: queue.SimpleQueue[tuple[int, Response] | BaseException] = queue.SimpleQueue()
            asking = Asking(self._in_service, self._counters, self._terms, list(requests), params, version, results.put)
            with self._beside(asking, results):
                for _ in requests:
                    result = results.get()
                    if isinstance(result, asyncio.CancelledError):
                        raise UserError("The rollout client was closed while samples were under way.")
                    if isinstance(result, BaseException):
                        raise result
                    yield result
        finally:
            self._busy.release()

    def info(self, url: str) -> dict[str, Any]:
        """What a server says of itself: the reply of its GET /v1/refit.

        Raises:
            UserError: it does not answer, or is no rollout server.
        """
        server = self._server(url)
        try:
            status, content = self._get(server, "/v1/refit", INFO_S)
        except httpx.TransportError as error:
            raise UserError(f"Rollout server {server.name}: {describe(error)}.") from error
        fields = decoded(content)
        if status != 200 or "engine" not in fields:
            raise UserError(f"Rollout server {server.name}: GET /v1/refit answered {status}: {detail(content)}")
        return fields

    def infos(self) -> dict[str, dict[str, Any]]:
        """`info` of every server that answers, by address. Those that do not are named on stderr and left out.

        Raises:
            UserError: none answers.
        """
        found: dict[str, dict[str, Any]] = {}
        failures: list[str] = []
        for url in self.urls:
            try:
                found[url] = self.info(url)
            except UserError as error:
                failures.append(str(error))
        if not found:
            raise UserError("No rollout server answers. " + " ".join(failures))
        for failure in failures:
            say(failure)
        return found

    def wait_ready(self, patience_s: float) -> list[str]:
        """Wait until every server answers /healthz, with or without weights.

        One that still does not after `patience_s` seconds is named on stderr and marked down, as later calls may find
        it well again.

        Returns:
            Addresses of those that answer.

        Raises:
            UserError: none does; names each and why.
        """
        end = time.monotonic() + patience_s
        missing = list(self._servers)
        while True:
            missing = [server for server in missing if not self._answers(server)]
            if not missing or time.monotonic() >= end:
                break
            time.sleep(POLL_S)
        if len(missing) == len(self._servers):
            raise UserError(
                f"No rollout server answers after {patience_s:g} s ({known_against(missing)}). Start one with "
                "`crossthink serve-rollout`, or check rollout.url=."
            )
        for server in missing:
            server.down = True
            say(f"rollout server {server.name} does not answer: {server.error}; going on without it")
        return [server.url for server in self._servers if server not in missing]

    def stats(self) -> dict[str, float]:
        """Totals since the client was made.

        Returns:
            `redealt` (samples asked again because a server failed), `failures` (times that one did), `servers_down`
            (now), `waited_s` (seconds of calls in which no server generated).
        """
        return {
            "redealt": self._counters.redealt,
            "failures": self._counters.failures,
            "servers_down": sum(server.down for server in self._servers),
            "waited_s": self._counters.waited_s,
        }

    @contextlib.contextmanager
    def _beside(self, asking: Asking, results: queue.SimpleQueue) -> Iterator[None]:
        """The call runs in a thread of its own inside this block. Where it fails, its exception is the last result."""
        loop = asyncio.new_event_loop()
        task = loop.create_task(asking.run())

        def work() -> None:
            try:
                loop.run_until_complete(task)
            except BaseException as error:  # the thread's boundary: raised again by whoever reads the results
                results.put(error)
            finally:
                loop.run_until_complete(loop.shutdown_asyncgens())

        thread = threading.Thread(target=work, name="rollout-client", daemon=True)
        thread.start()
        self._cancel = cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            yield
        except BaseException:  # GeneratorExit and KeyboardInterrupt among them: nobody reads on
            cancel()
            raise
        finally:
            # After the last sample the call ends by itself, once its streams have said their last line.
            thread.join()
            with self._ending:
                self._cancel = None
            loop.close()

    def _answers(self, server: Server) -> bool:
        try:
            status, content = self._get(server, "/healthz", self._terms.connect_s)
        except httpx.TransportError as error:
            server.error = describe(error)
            return False
        server.error = problem_of(status, content, None)
        return status == 200 and "engine" in decoded(content)

    def _get(self, server: Server, path: str, limit_s: float) -> tuple[int, bytes]:
        """Status and body of one request."""
        end = time.monotonic() + limit_s
        timeout = httpx.Timeout(limit_s, connect=min(limit_s, self._terms.connect_s))
        content = bytearray()
        with (
            httpx.Client(headers=self._terms.headers, timeout=timeout, trust_env=False) as http,
            http.stream("GET", server.url + path, headers={"Accept-Encoding": "identity"}) as reply,
        ):
            for part in reply.iter_raw():
                content += part
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("the reply did not end")
                if len(content) > INFO_BYTES:
                    raise httpx.ReadError(f"the reply is longer than {INFO_BYTES >> 20} MiB")
        return reply.status_code, bytes(content)

    def _server(self, url: str) -> Server:
        return next(server for server in self._servers if server.url == url.rstrip("/"))
