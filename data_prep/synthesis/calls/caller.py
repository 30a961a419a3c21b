"""Asks a model: what the store knows is not asked again, and what is asked stays within the budget."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Literal

from crossthink.endpoint import Endpoint, EndpointLate, EndpointLost, EndpointRefused, Said
from data_prep.synthesis.calls.budget import Budget, BudgetReached
from data_prep.synthesis.calls.counters import Counters
from data_prep.synthesis.calls.request import CUT_OFF, LATE, PROSE, REFUSED, Failed, Reply, Request, Structured, Usage
from data_prep.synthesis.calls.store import AnswerStore
from data_prep.synthesis.calls.structured import NoObject, read_object

THIS_REQUEST = (400, 413, 422)
"""Refusals of one request, not of whoever asks."""
SHOWN = 300
"""Characters of a reply that are kept to tell why it failed."""

JsonMode = Literal["auto", "schema", "prompt"]
"""Whether an endpoint is sent the schema: until it refuses one, always, or never."""


class Caller:
    """Requests to one endpoint, many at a time; an async context.

    A call whose asker is cancelled is not: it goes on until the block is left, so that another asker of the same
    request gets its answer. Where a budget ends the block, this caller's or another's, the calls under way are waited
    for, since they are paid for; anything else that ends it cancels them.

    Args:
        endpoint: that is asked; entered and left with this.
        store: of answers, open.
        budget: that includes what the store has spent.
        concurrency: calls under way at a time.
        json_mode: see `JsonMode`.
        json_tries: replies to one request for JSON, the first included, before it counts as prose.
        late_in_a_row: requests in a row that are late, with no other answer between, before the endpoint counts as
            lost; those are not counted as failed, but are asked again by the next start.
        retry_failed: ask what failed in earlier starts again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        store: AnswerStore,
        budget: Budget,
        *,
        concurrency: int,
        json_mode: JsonMode,
        json_tries: int,
        late_in_a_row: int,
        retry_failed: bool,
    ) -> None:
        self.counters = Counters()
        self._endpoint, self._store, self._budget = endpoint, store, budget
        self._json_mode, self._json_tries = json_mode, json_tries
        self._late_in_a_row, self._retry_failed = late_in_a_row, retry_failed
        self._slots = asyncio.Semaphore(concurrency)
        self._under_way: dict[str, asyncio.Task[Reply | Failed]] = {}
        self._answered_now: set[str] = set()
        self._late: list[str] = []
        self._schema_taken: dict[str, bool] = {}
        self._lost = self._closing = False
        self._model = ""

    async def __aenter__(self) -> Caller:
        """Connect. The endpoint is asked for its model where none is named.

        Raises:
            ConfigError, UserError: see `Endpoint.model`.
        """
        # A start that finds everything in its store needs no endpoint.
        self._model = self._endpoint.access.model or self._endpoint.model
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._closing = True
        tasks = list(self._under_way.values())
        if error is not None and not isinstance(error, BudgetReached):
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._endpoint.__aexit__(None, None, None)

    @property
    def model(self) -> str:
        """Name of the model that is asked; empty before the block is entered."""
        return self._model

    async def ask(self, request: Request) -> Reply | Failed:
        """What the request comes to, from the store or the endpoint.

        Raises:
            BudgetReached: there is too little left for it.
            EndpointLost: the endpoint answers no more.
            UserError: the endpoint refuses whoever asks, or what it says is no chat completion.
        """
        outcome = await self._outcome(request, fresh=False)
        self._count(outcome)
        return outcome

    async def ask_json(self, request: Request) -> Structured | Failed:
        """The object that the request asks for; where a reply holds none that fits, another reply is asked for.

        Raises:
            BudgetReached, EndpointLost, UserError: as `ask`.
        """
        found = await self._object(request, fresh=False)
        if self._retry_failed and isinstance(found, Failed) and found.reason == PROSE:
            found = await self._object(request, fresh=True)
        self._count(found)
        return found

    async def _object(self, request: Request, fresh: bool) -> Structured | Failed:
        assert request.schema is not None, f"a request for JSON ({request.purpose}) has a schema"
        said = ""
        for attempt in range(self._json_tries):
            reply = await self._outcome(replace(request, attempt=attempt), fresh)
            if isinstance(reply, Failed):
                return reply
            try:
                return Structured(read_object(reply.text, request.schema), reply)
            except NoObject as error:
                self.counters.prose += 1
                said = f"{error}: {reply.text[-SHOWN:]}"
        return Failed(PROSE, said)

    def _count(self, outcome: Reply | Structured | Failed) -> None:
        if isinstance(outcome, Failed):
            self.counters.failed[outcome.reason] += 1

    async def _outcome(self, request: Request, fresh: bool) -> Reply | Failed:
        """From the store, from a call under way, or from a call.

        Args:
            request: that is asked.
            fresh: do without what earlier starts have stored.
        """
        key = request.key(self._model)
        stored = self._store.get(key)
        if stored is not None and (key in self._answered_now or not (fresh or self._wants_again(stored))):
            self.counters.from_store += 1
            return stored
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.ensure_future(self._call(key, request))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._over(key, done))
        return await asyncio.shield(task)

    def _wants_again(self, stored: Reply | Failed) -> bool:
        return self._retry_failed and isinstance(stored, Failed)

    def _over(self, key: str, task: asyncio.Task[Reply | Failed]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # whoever asked may be gone; nobody is to be told that it was never looked at

    async def _call(self, key: str, request: Request) -> Reply | Failed:
        async with self._slots:
            if self._closing:
                raise asyncio.CancelledError
            began = time.monotonic()
            self.counters.calls += 1
            try:
                with self.counters.call():
                    outcome, used = await self._settled(request)
            except EndpointLost:
                self._lost = True
                self._forget_late()
                raise
            self._store.put(key, request.purpose, self._model, outcome, used, time.monotonic() - began)
            self._answered_now.add(key)
            self._watch(key, outcome)
            return outcome

    def _watch(self, key: str, outcome: Reply | Failed) -> None:
        """Nothing but lateness, from one request to the next, is no property of the requests."""
        if not (isinstance(outcome, Failed) and outcome.reason == LATE):
            self._late.clear()
            return
        self._late.append(key)
        if self._lost or len(self._late) >= self._late_in_a_row:
            count, self._lost = len(self._late), True
            self._forget_late()
            raise EndpointLost(
                f"{self._endpoint.label} was late with {count} requests in a row: {outcome.said}. "
                "They are not counted as failed: the same command asks them again."
            )

    def _forget_late(self) -> None:
        self._store.forget(self._late)
        self._answered_now.difference_update(self._late)
        self._late.clear()

    async def _settled(self, request: Request) -> tuple[Reply | Failed, Usage]:
        """The outcome, and what is still to be charged for it."""
        try:
            said, used = await self._said(request)
        except EndpointRefused as error:
            if error.status not in THIS_REQUEST:
                raise
            return Failed(REFUSED, f"{error.status}: {error.said}"[:SHOWN]), Usage(calls=1)
        except EndpointLate:
            access = self._endpoint.access  # not the address: the same failure reads the same wherever it happened
            return Failed(LATE, f"no answer in {access.retries + 1} tries of {access.deadline_s:g} s"), Usage()
        return settle(said, self._model, used), used

    async def _said(self, request: Request) -> tuple[Said, Usage]:
        name = request.schema_name
        taken = self._schema_taken.get(name)
        if request.schema is None or self._json_mode == "prompt" or taken is False:
            return await self._tried(request, with_schema=False)
        try:
            found = await self._tried(request, with_schema=True)
        except EndpointRefused as error:
            # Whoever took the schema before refuses the request.
            if self._json_mode != "auto" or taken or error.status not in THIS_REQUEST:
                raise
        else:
            self._schema_taken[name] = True
            return found
        self.counters.tries_again += 1
        found = await self._tried(request, with_schema=False)
        if not self._schema_taken.get(name):
            self._schema_taken[name] = False
            self.counters.schemas_refused.add(name)
        return found

    async def _tried(self, request: Request, with_schema: bool) -> tuple[Said, Usage]:
        """One completion, each of whose tries has a reservation of its own: a late one has cost what nobody knows."""
        most, tries = request.most(), 0

        async def once() -> tuple[Said, Usage]:
            nonlocal tries
            async with self._budget.reserved(most) as reservation:
                if tries:
                    self.counters.tries_again += 1
                tries += 1
                try:
                    options = request.options(with_schema)
                    said = await self._endpoint.once(self._model, request.messages, **options)
                except asyncio.TimeoutError:
                    reservation.used = most
                    self._store.charge(request.purpose, most)
                    self.counters.used += most
                    raise
                reservation.used = used_by(said, most)
                self.counters.used += reservation.used
                return said, reservation.used

        return await self._endpoint.tries(once)


def settle(said: Said, model: str, used: Usage) -> Reply | Failed:
    """A completion as an outcome: only one that came to its own end is a reply."""
    if said.refusal or said.finish_reason == "content_filter":
        return Failed(REFUSED, (said.refusal or f"content_filter: {said.text}")[:SHOWN])
    if said.finish_reason == "length":
        return Failed(CUT_OFF, f"after {used.completion_tokens} tokens: {said.text[-SHOWN:]}")
    return Reply(said.text, model, used)


def used_by(said: Said, most: Usage) -> Usage:
    """What a completion took: as the endpoint counts, and where it does not, the most that it can be."""
    prompt, completion = said.prompt_tokens, said.completion_tokens
    if prompt is None:
        prompt = most.prompt_tokens
    if completion is None:
        completion = min(most.completion_tokens, len(said.text.encode("utf-8")))
    return Usage(1, prompt, completion)
