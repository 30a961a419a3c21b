"""Who may generate when: admission, weight versions, and refits that wait for what is under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

import crossthink
from conf.rollout import ServeRolloutConfig
from crossthink.errors import UserError
from recipes.rollout.interface import Request, RequestError, Response, SamplingParams, ServedEngine
from recipes.rollout.server.flight import Aborted, Flight, Found
from recipes.rollout.server.metrics import NO_VERSION, Metrics
from recipes.rollout.server.refusals import Conflict, later
from reward_server.service import Refused

log = logging.getLogger(__name__)

ENDING = "the server was told to end; it takes no more requests"
FIRST_S = 0.5
"""Seconds in which an engine that cannot answer at all should have said so: a status says more than a broken stream."""


class Service:
    """Lets requests to the engine, one per server; everything runs on the event loop.

    Attributes:
        config: as given.
        engine: what generates.
        metrics: what it counts.
        under_way: samples of requests that were let in, or wait for a refit to end, until their reply is sent.
        draining: no new requests are taken, for good.
        asleep: the engine gave its memory back.
        changing: what changes the weights, or waits until it may.
    """

    def __init__(self, config: ServeRolloutConfig, engine: ServedEngine, model: str):
        self.config, self.engine, self.model = config, engine, model
        self.under_way = 0
        self.draining = False
        self.asleep = False
        self.changing: str | None = None
        self._at_gate = 0  # samples that wait for it to open
        self._aborts = 0
        self._flights: set[Flight] = set()
        self._open, self._idle, self._empty = asyncio.Event(), asyncio.Event(), asyncio.Event()
        for event in (self._open, self._idle, self._empty):
            event.set()
        facts = {"version": crossthink.__version__, "engine": engine.name, "model": model}
        self.metrics = Metrics(
            facts,
            {
                "running": ("Samples that the engine generates.", lambda: engine.load().get("running", 0)),
                "waiting": ("Samples that wait for a place in it.", lambda: engine.load().get("waiting", 0)),
                "under_way": ("Samples of requests that were taken and not answered.", lambda: self.under_way),
                "ready": ("1: it can generate.", lambda: float(self.ready)),
                "weight_version": (
                    f"Version of the weights; {NO_VERSION}: no whole set.",
                    lambda: NO_VERSION if engine.version is None else engine.version,
                ),
            },
        )

    @property
    def ready(self) -> bool:
        """It can generate, now or after the refit under way."""
        return self.engine.version is not None and not self.draining and not self.asleep

    async def start(self, requests: Sequence[Request], params: SamplingParams, version: int | None = None) -> Flight:
        """Let a request in, behind a refit that is under way. Whoever gets the flight hands it to `finish` at the end.

        Args:
            requests: already found within the engine's limits.
            params: how to draw.
            version: of the weights wanted; None: any.

        Raises:
            Refused: 422 for more samples than are ever taken at once, or what the engine can never answer; 429 for a
                full queue, 503 without weights or at the end of the server, 500 where the engine failed.
            Conflict: 409, the weights are of another version.
        """
        self._join(len(requests))
        flight = None
        try:
            await self._pass_gate(len(requests), version)
            began = time.monotonic()

            def generated(_: int, response: Response) -> None:
                self.metrics.finished(response, time.monotonic() - began)

            flight = Flight(self._source(requests, params), len(requests), generated, self._generated)
            self._flights.add(flight)
            self._idle.clear()
            self.metrics.arrived(sum(len(ids) for ids in {one.prompt: one.prompt_ids for one in requests}.values()))
            await self._expect(flight)
            return flight
        except BaseException:
            if flight is not None:
                await flight.close()
            self._leave(len(requests))
            raise

    async def finish(self, flight: Flight, samples: int) -> None:
        """The reply to a request of so many samples is sent, or its client has gone."""
        try:
            await flight.close()
        finally:
            self._leave(samples)

    def abort(self, why: str) -> int:
        """Give up everything under way, and what waits for a refit. Returns the samples that will not come."""
        self._aborts += 1
        flying = list(self._flights)
        samples = sum(flight.left for flight in flying) + self._at_gate
        for flight in flying:
            flight.abort(why)
        return samples

    async def refit(self, offer: dict[str, Any]) -> dict[str, Any]:
        """Take new weights over. To be called inside `alone`.

        Returns:
            `version`, `tensors`, `bytes`, `checksum` and `seconds`.

        Raises:
            Conflict: 409 where the old weights still serve, 500 where none do.
        """
        began = time.monotonic()
        try:
            report = await self.engine.refit(offer)
        except UserError as error:
            version = self.engine.version
            self.metrics.refit("refused" if version is not None else "failed")
            log.warning("refit", extra={"fields": {"wanted": offer.get("version"), "why": str(error)}})
            raise Conflict(500 if version is None else 409, str(error), version) from error
        self.metrics.refit("done", report["bytes"], time.monotonic() - began)
        log.info("refit", extra={"fields": {**report, "version": self.engine.version}})
        return {"version": self.engine.version, **report}

    async def sleep(self) -> None:
        """Give the device's memory back. To be called inside `alone`."""
        if not self.asleep:
            await self.engine.sleep()
            self.asleep = True

    async def wake(self) -> None:
        """Take the memory again; the next refit brings the weights. To be called inside `alone`."""
        if self.asleep:
            await self.engine.wake()
            self.asleep = False

    @asynccontextmanager
    async def alone(self, what: str) -> AsyncIterator[None]:
        """Nothing is generated inside the block, and new requests wait for its end.

        Raises:
            Conflict: 409: another block is open, or what is under way did not end within `refit_deadline_s`.
        """
        if self.changing is not None:
            raise Conflict(409, f"{self.changing} is under way; one at a time.", self.engine.version)
        self.changing = what
        self._open.clear()
        try:
            with anyio.fail_after(self.config.refit_deadline_s):
                await self._idle.wait()
        except TimeoutError as error:
            self._change_over()
            left = sum(flight.left for flight in self._flights)
            detail = f"{left} samples were still under way after refit_deadline_s={self.config.refit_deadline_s:g}."
            raise Conflict(409, detail, self.engine.version) from error
        except BaseException:
            self._change_over()
            raise
        try:
            yield
        finally:
            self._change_over()

    async def drain(self, within_s: float) -> None:
        """Take no more, and give what is under way so many seconds; then it is aborted."""
        self.draining = True
        with anyio.move_on_after(within_s):
            await self._empty.wait()
        self.abort("the server was told to end")

    def _join(self, samples: int) -> None:
        most = self.config.max_queue
        if samples > most:
            raise Refused(422, f"samples: {samples} in one request; at most max_queue={most} are taken at once")
        if self.draining:
            raise later(503, ENDING)
        if self.under_way + samples > most:
            raise later(
                429, f"queue: {self.under_way} samples are under way, {samples} more would pass max_queue={most}"
            )
        self.under_way += samples
        self._empty.clear()

    def _leave(self, samples: int) -> None:
        self.under_way -= samples
        if not self.under_way:
            self._empty.set()

    async def _pass_gate(self, samples: int, version: int | None) -> None:
        aborts = self._aborts
        self._at_gate += samples
        try:
            while not self._open.is_set():  # another change may begin before this task is resumed
                await self._open.wait()
        finally:
            self._at_gate -= samples
        if self._aborts != aborts:
            raise Refused(503, "the request was aborted while it waited for a refit")
        if self.draining:
            raise later(503, ENDING)
        have = self.engine.version
        if self.asleep:
            raise later(503, "weights: the engine is asleep; POST /v1/wake, then a refit, bring it back")
        if have is None:
            raise later(503, "weights: there is no whole set of them yet; a refit brings it")
        if version is not None and version != have:
            raise Conflict(409, f"version: {version} is not that of the weights here, {have}", have)

    def _source(self, requests: Sequence[Request], params: SamplingParams) -> AsyncGenerator[Found, None]:
        try:
            return self.engine.generate(requests, params)
        except RequestError as error:
            raise Refused(422, str(error)) from error

    async def _expect(self, flight: Flight) -> None:
        """Wait a moment for the first sample, and refuse where the engine refuses."""
        try:
            await flight.wait(FIRST_S)
        except TimeoutError:
            return
        failure = flight.failed_at_once
        if failure is None or isinstance(failure, Aborted):
            return
        raise Refused(422 if isinstance(failure, RequestError) else 500, str(failure)) from failure

    def _generated(self, flight: Flight) -> None:
        self._flights.discard(flight)
        if flight.left:
            self.metrics.aborted(flight.left)
        if not self._flights:
            self._idle.set()

    def _change_over(self) -> None:
        self.changing = None
        self._open.set()
