"""The trainer's side of rollout servers: every sample asked for, from whichever servers are alive, or an error."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import httpx

from crossthink.errors import UserError
from recipes.rollout.client.asking import Asking, Counters, Terms
from recipes.rollout.client.servers import Server, describe, say
from recipes.rollout.interface import Request, Response, SamplingParams


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
        self._closed = False

    def __enter__(self) -> RolloutClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ask nothing any more. A call under way is given up: servers drop its samples, its reader gets an error."""
        with self._ending:
            self._closed = True
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
            UserError: the token is wrong, or the client was closed, before or meanwhile.
            ValueError: two requests have the same numbers.
            RuntimeError: another call is under way.
        """
        with self._ending:
            if self._closed:
                raise UserError("The rollout client was closed before samples were asked for.")
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
        with self._ending:
            self._cancel = cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._closed:  # since `stream` looked; a task that is cancelled before it runs asks nothing
                cancel()
        thread.start()
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
