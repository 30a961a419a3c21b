"""One call of the client: all its requests, on as many servers as are alive, until every sample is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from crossthink.errors import UserError
from recipes.rollout.client.answers import LINE_BYTES, TOKEN_BYTES, BadAnswer, lines, numbers, parse, response
from recipes.rollout.client.dealing import Dealing
from recipes.rollout.client.servers import (
    NoServersError,
    Server,
    describe,
    detail,
    has_lost,
    known_against,
    problem_of,
    say,
)
from recipes.rollout.client.wire import beginning, bodies_of, encode, retry_after_s
from recipes.rollout.interface import LostWeightsError, Request, RequestError, Response, SamplingParams

LOST_S = 2.0
"""Seconds without a server that has the weights, and with one that has lost them, before the call is given up."""
GRACE_S = 0.5
"""Seconds in which streams may end that have no sample left to send."""
MOST_SAID = 1000
"""Characters of a server's own words in a message."""
CALLERS_FAULT = (400, 413, 422)
"""Every server would refuse this request."""
NO_ACCESS = (401, 403)
OF_WEIGHTS = "weights:"
"""How a server's 503 begins that has none: it was started again."""


@dataclass
class Counters:
    """What a client counts over all its calls."""

    redealt: int = 0
    failures: int = 0
    waited_s: float = 0.0


@dataclass(frozen=True)
class Terms:
    """What a client was told at the start; see `RolloutClient`."""

    headers: dict[str, str]
    deadline_s: float
    outage_limit_s: float
    connect_s: float


@dataclass(eq=False)
class _Asked:
    """One request on the wire: its server, the (prompt, sample) numbers still due, and when it last sent a line."""

    server: Server
    due: set[tuple[int, int]]
    body: bytes
    heard_at: float
    accepted: bool = False
    task: asyncio.Task[None] = field(init=False)


class Asking:
    """One call. `run` is its only coroutine; everything happens on one event loop.

    Args:
        servers: what the client knows of them; kept up to date.
        counters: the client's; kept up to date.
        terms: the client's.
        requests: what is wanted.
        params: how to draw.
        version: weight version wanted; None: any.
        give: gets (index, response) as they come.
    """

    def __init__(
        self,
        servers: list[Server],
        counters: Counters,
        terms: Terms,
        requests: Sequence[Request],
        params: SamplingParams,
        version: int | None,
        give: Callable[[tuple[int, Response]], None],
    ):
        self._servers, self._counters, self._terms = servers, counters, terms
        self._requests, self._params, self._version, self._give = requests, params, version, give
        self._dealing = Dealing(requests, params, [server.url for server in servers])
        self._line_bytes = LINE_BYTES + TOKEN_BYTES * max((one.budget(params) for one in requests), default=0)
        self._index = {(one.prompt, one.sample): index for index, one in enumerate(requests)}
        self._asked: set[_Asked] = set()
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._fault: BaseException | None = None

    async def run(self) -> None:
        """Ask until every sample is there.

        Raises:
            RequestError, UserError: a server refused the request for the caller's fault.
            NoServersError: no server generated for the outage limit, or none is left to this call.
            LostWeightsError: servers answer, and none has the weights.
        """
        self._changed = asyncio.Event()
        self._served_at = time.monotonic()
        for server in self._servers:
            server.begin_call()
        # Servers are addressed directly: a proxy from the environment is for the internet. An idle connection is not
        # kept, as a server may close it just when it is used, which would look like a failure.
        self._http = httpx.AsyncClient(
            headers={**self._terms.headers, "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx.Timeout(None, connect=self._terms.connect_s),
            trust_env=False,
        )
        async with self._http:
            try:
                while self._dealing.left:
                    self._drop_silent()
                    self._deal()
                    self._look_again()
                    self._check_outage()
                    await self._pause()
                    if self._fault is not None:
                        raise self._fault
                if self._asked:
                    await asyncio.wait([asked.task for asked in self._asked], timeout=GRACE_S)
            finally:
                under_way = [*(asked.task for asked in self._asked), *self._looks.values()]
                for task in under_way:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)

    def _deal(self) -> None:
        now = time.monotonic()
        in_use = [server for server in self._servers if server.in_use]
        ready = {server.url: server for server in in_use if server.ask_after <= now}
        for url, groups in self._dealing.deal(list(ready), len(in_use)).items():
            for together in bodies_of([self._requests[index] for index in group] for group in groups):
                self._send(ready[url], together)

    def _send(self, server: Server, groups: list[list[Request]]) -> None:
        due = {(one.prompt, one.sample) for group in groups for one in group}
        asked = _Asked(server, due, encode(groups, self._params, self._version), time.monotonic())
        self._asked.add(asked)
        asked.task = self._start(self._ask(asked), lambda: self._asked.discard(asked))

    async def _ask(self, asked: _Asked) -> None:
        """Send one request and take its samples in."""
        headers = {"Content-Type": "application/json"}
        url = asked.server.url + "/v1/generate"
        try:
            async with self._http.stream("POST", url, content=asked.body, headers=headers) as reply:
                asked.heard_at = time.monotonic()
                if reply.status_code != 200:
                    await self._refused(asked, reply)
                    return
                self._serves()
                asked.accepted = True
                await self._take_in(asked, reply)
        except httpx.TransportError as error:
            self._fail(asked.server, describe(error))
        except BadAnswer as error:
            self._fail(asked.server, str(error))
        finally:
            if asked.accepted:
                self._served_at = time.monotonic()

    async def _take_in(self, asked: _Asked, reply: httpx.Response) -> None:
        async for line in lines(reply.aiter_raw(), self._line_bytes):
            asked.heard_at = time.monotonic()
            fields = parse(line)
            if "error" in fields:
                raise BadAnswer(f"failed midway: {str(fields['error'])[:MOST_SAID]}")
            if "token_ids" in fields:
                prompt, sample = number = numbers(fields)
                if number not in asked.due:
                    raise BadAnswer(f"sent sample {sample} of prompt {prompt}, which was not due")
                index = self._index[number]
                drawn = response(fields, self._requests[index], self._params, self._version)
                asked.due.remove(number)
                if self._dealing.finish(asked.server.url, index):
                    asked.server.failures = 0
                    self._give((index, drawn))
                    self._changed.set()
            elif "done" in fields:
                if asked.due:
                    raise BadAnswer(f"said that it was done with {len(asked.due)} samples missing")
                return
            elif "alive" not in fields:
                raise BadAnswer(f"sent a line of no known kind: {sorted(fields)[:4]}")
        raise BadAnswer(f"ended its stream with {len(asked.due)} samples missing, without a last line")

    async def _refused(self, asked: _Asked, reply: httpx.Response) -> None:
        server, status = asked.server, reply.status_code
        content = await beginning(reply)
        what = f"answered {status}: {detail(content)}"
        if status in CALLERS_FAULT or status in NO_ACCESS:
            kind = UserError if status in NO_ACCESS else RequestError
            hint = ". Set rollout.token= to the servers' token." if status in NO_ACCESS else ""
            raise kind(f"Rollout server {server.name} {what}{hint}")
        if status == 409:
            self._take_back(asked)
            if not server.left_out:
                server.left_out, server.lost, server.error = True, True, what
                say(f"rollout server {server.name}: {what}; it is left out of this step")
        elif status == 503 and detail(content).startswith(OF_WEIGHTS):
            raise BadAnswer(what)  # the next look at it tells whether they are lost
        elif status in (429, 503):
            if status == 429:
                self._dealing.narrow(server.url)
            self._take_back(asked)
            seconds = server.wait(what, retry_after_s(reply), time.monotonic())
            if not server.said_waiting:
                server.said_waiting = True
                say(f"rollout server {server.name} lets us wait: {what}; asked again in {seconds:.1f} s")
        else:
            raise BadAnswer(what)

    def _take_back(self, asked: _Asked) -> None:
        self._dealing.give_back(asked.server.url, {prompt for prompt, _ in asked.due})

    def _fail(self, server: Server, reason: str) -> None:
        """Mark a server down, and give its samples to others. Only the first of its broken streams counts."""
        if server.down:
            return
        server.fail(reason, time.monotonic())
        count = self._dealing.give_back(server.url)
        self._counters.failures += 1
        self._counters.redealt += count
        say(f"rollout server {server.name}: {reason}" + (f"; its {count} samples are asked elsewhere" if count else ""))
        for asked in self._asked:
            if asked.server is server and asked.task is not asyncio.current_task():
                asked.task.cancel()

    def _drop_silent(self) -> None:
        now = time.monotonic()
        for asked in self._asked:
            if now - asked.heard_at >= self._terms.deadline_s:
                self._fail(asked.server, f"has sent nothing for {self._terms.deadline_s:g} s")

    def _look_again(self) -> None:
        now = time.monotonic()
        for server in self._servers:
            if server.down and not server.left_out and server.look_at <= now and server.url not in self._looks:
                self._looks[server.url] = self._start(self._look(server), partial(self._looks.pop, server.url))

    async def _look(self, server: Server) -> None:
        lost = False
        try:
            problem, lost = await asyncio.wait_for(self._health(server), self._terms.connect_s)
        except asyncio.TimeoutError:
            problem = f"/healthz sent nothing within {self._terms.connect_s:g} s"
        except httpx.TransportError as error:
            problem = describe(error)
        server.looked(problem, time.monotonic(), lost)
        if problem is None:
            say(f"rollout server {server.name} is back")

    async def _health(self, server: Server) -> tuple[str | None, bool]:
        async with self._http.stream("GET", server.url + "/healthz") as reply:
            told = reply.status_code, await beginning(reply), self._version
            return problem_of(*told), has_lost(*told)

    def _serves(self) -> None:
        """Some server has accepted work."""
        if not any(asked.accepted for asked in self._asked):
            self._counters.waited_s += time.monotonic() - self._served_at

    def _check_outage(self) -> None:
        if self._asked:
            return
        silent_s = time.monotonic() - self._served_at
        none_left = all(server.left_out for server in self._servers)
        some_lost, none_used = any(s.lost for s in self._servers), not any(s.in_use for s in self._servers)
        if some_lost and none_used and (none_left or silent_s >= LOST_S):
            self._counters.waited_s += silent_s
            raise LostWeightsError(
                f"No rollout server has weight version {self._version} any more ({known_against(self._servers)})."
            )
        if not none_left and silent_s < self._terms.outage_limit_s:
            return
        self._counters.waited_s += silent_s
        since = "is left for this step" if none_left else f"has generated for {self._terms.outage_limit_s:g} s"
        raise NoServersError(
            f"No rollout server {since} ({known_against(self._servers)}). Start one with `crossthink serve-rollout`, "
            "check rollout.url=, or raise rollout.outage_limit_s=."
        )

    async def _pause(self) -> None:
        """Until something happened, or is due."""
        now = time.monotonic()
        due = [asked.heard_at + self._terms.deadline_s for asked in self._asked]
        due += [s.look_at for s in self._servers if s.down and not s.left_out and s.url not in self._looks]
        due += [s.ask_after for s in self._servers if s.in_use and s.ask_after > now]
        if not self._asked:
            due += [self._served_at + limit_s for limit_s in (LOST_S, self._terms.outage_limit_s)]
            due = [at for at in due if at > now] or due
        timer = asyncio.get_running_loop().call_later(max(0.0, min(due) - now) if due else 1.0, self._changed.set)
        await self._changed.wait()
        timer.cancel()
        self._changed.clear()

    def _start(self, work: Coroutine[Any, Any, None], forget: Callable[[], object]) -> asyncio.Task[None]:
        """Run a coroutine beside the others; what it raises ends the call."""

        def ended(task: asyncio.Task[None]) -> None:
            forget()
            if not task.cancelled() and task.exception() is not None:
                self._fault = self._fault or task.exception()
            self._changed.set()

        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(ended)
        return task
