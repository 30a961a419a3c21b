"""The local engine behind the rollout server: a thread that draws tokens, and an event loop that asks for them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from crossthink.errors import UserError
from recipes.models.weights import SafetensorsFolder
from recipes.rollout.interface import Limits, RefitError, Request, Response, SamplingParams
from recipes.rollout.local.engine import LocalEngine
from recipes.rollout.refit.offer import Offer
from recipes.rollout.refit.source import Groups, read

log = logging.getLogger(__name__)

STOP_S = 10.0
"""Seconds that `stop` waits for a step or a refit under way; the thread ends with the process in any case."""
TIED_HEAD = "lm_head.weight"

Found = tuple[int, Response]
"""Index of the request, and its response."""


def load_folder(engine: LocalEngine, folder: Path) -> None:
    """Have an engine take over, as version 0, the weights of a model folder, tensor by tensor.

    Raises:
        UserError: damaged, quantised, or weights of another model than config.json's; names file and tensor.
    """
    stored = SafetensorsFolder(folder)
    ignored = ("rotary_emb.inv_freq",) if TIED_HEAD in engine.shapes else ("rotary_emb.inv_freq", TIED_HEAD)
    stored.check_names(list(engine.shapes), ignored)
    engine.refit(
        lambda: ((name, stored.read_part(name, (slice(None),), shape)) for name, shape in engine.shapes.items()),
        version=0,
    )


class _Asked:
    """One call of `generate`: its requests on their way to the engine's thread, its responses on their way back."""

    def __init__(self, requests: Sequence[Request], params: SamplingParams) -> None:
        self.requests, self.params = requests, params
        self.tickets: set[int] = set()
        self.over = False
        self.news: asyncio.Queue[list[Found] | UserError] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def answer(self, news: list[Found] | UserError) -> None:
        """From the engine's thread."""
        self._loop.call_soon_threadsafe(self.news.put_nowait, news)


class _Job:
    """Something that the engine's thread does while nothing is under way."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._call = call

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._call())
        except BaseException as error:  # it belongs to whoever waits for the job
            self.future.set_exception(error)


class LocalServed:
    """Implements `recipes.rollout.interface.ServedEngine`. Only its thread touches the engine's batch and weights."""

    name = "local"
    deterministic = True
    ranks = 1

    def __init__(self, engine: LocalEngine, limits: Limits, token_delay_s: float = 0.0) -> None:
        """
        Args:
            engine: nobody else uses it from now on.
            limits: of requests.
            token_delay_s: pause after every step, for rehearsals of a slower engine.
        """
        self.engine = engine
        self.limits = limits
        self._token_delay_s = token_delay_s
        self._thread: threading.Thread | None = None
        self._joined = Groups()
        self._tickets = itertools.count()
        self._asked_by: dict[int, tuple[_Asked, int]] = {}  # by ticket: who asked, and index of the request
        # What both sides touch, under the condition's lock.
        self._news = threading.Condition()
        self._orders: deque[_Asked | _Job] = deque()
        self._given_up: list[_Asked] = []
        self._stopping = False

    @property
    def version(self) -> int | None:
        """See `ServedEngine.version`."""
        return self.engine.version

    async def start(self) -> None:
        """See `ServedEngine.start`."""
        self._thread = threading.Thread(target=self._drive, name="rollout-engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """See `ServedEngine.stop`."""
        with self._news:
            self._stopping = True
            self._news.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_S)
        self._joined.close()

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> AsyncGenerator[Found, None]:
        """See `ServedEngine.generate`."""
        for request in requests:
            self.limits.check(request, params)
            self.engine.check(request, params)
        return self._generate(requests, params)

    async def _generate(self, requests: Sequence[Request], params: SamplingParams) -> AsyncGenerator[Found, None]:
        asked = _Asked(requests, params)
        self._order(asked)
        left = len(requests)
        try:
            while left:
                news = await asked.news.get()
                if isinstance(news, UserError):
                    raise news
                for found in news:
                    left -= 1
                    yield found
        finally:
            if left:
                with self._news:
                    self._given_up.append(asked)
                    self._news.notify()

    async def refit(self, offer: dict[str, Any]) -> dict[str, Any]:
        """See `ServedEngine.refit`."""
        wanted = Offer.from_json(offer)
        if wanted.tensors is not None:
            self._check_shapes({name: tuple(shape) for name, _, shape in wanted.tensors})
        return await self._alone(lambda: self._take(wanted))

    def load(self) -> dict[str, int]:
        """See `ServedEngine.load`."""
        with self._news:
            ordered = sum(len(order.requests) for order in self._orders if isinstance(order, _Asked))
        room = self.engine.batch_size * self.limits.max_total_tokens
        return {
            "running": self.engine.running,
            "waiting": self.engine.waiting + ordered,
            "free_tokens": room - self.engine.cached_tokens,
        }

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """See `ServedEngine.tensors`."""
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in self.engine.parameters.items()}
        return {name: (dtypes[name], shape) for name, shape in self.engine.shapes.items()}

    async def sleep(self) -> None:
        """See `ServedEngine.sleep`."""
        await self._alone(self.engine.sleep)

    async def wake(self) -> None:
        """See `ServedEngine.wake`."""
        await self._alone(self.engine.wake)

    def _order(self, order: _Asked | _Job) -> None:
        with self._news:
            if self._thread is None or self._stopping or not self._thread.is_alive():
                raise UserError("The rollout engine does not run: it was stopped, or never started.")
            self._orders.append(order)
            self._news.notify()

    async def _alone(self, call: Callable[[], Any]) -> Any:
        """Have the engine's thread call this once nothing is under way; requests that come later wait for it."""
        job = _Job(call)
        self._order(job)
        return await asyncio.wrap_future(job.future)

    def _check_shapes(self, offered: dict[str, tuple[int, ...]]) -> None:
        """Refuse weights of another model while the old ones are whole."""
        for name, shape in self.engine.shapes.items():
            if name not in offered:
                raise RefitError(f"The refit offers no tensor '{name}', which the rollout model has.")
            if offered[name] != shape:
                raise RefitError(f"The refit offers '{name}' of shape {offered[name]}; the rollout model has {shape}.")
        for name in offered:
            if name not in self.engine.shapes:
                raise RefitError(f"The refit offers '{name}', which the rollout model has not.")

    def _take(self, offer: Offer) -> dict[str, Any]:
        """Take weights over, in the engine's thread. Returns what `refit` does."""
        began = time.monotonic()
        self.engine.check_refit()  # before the sender is told that this server takes part
        with closing(read(offer, 0, into=self.engine.parameters, joined=self._joined)) as reading:
            self.engine.refit(lambda: reading, offer.version)
        seconds = time.monotonic() - began
        return {"tensors": reading.tensors, "bytes": reading.bytes, "checksum": reading.checksum, "seconds": seconds}

    def _drive(self) -> None:
        """The engine's thread."""
        while self._wait():
            try:
                self._abort_given_up()
                self._take_orders()
                if self._busy:
                    self._step()
            except Exception as error:
                log.exception("the rollout engine failed")
                self._fail(f"The rollout engine failed: {type(error).__name__}: {error}", [])
        with self._news:
            orders = list(self._orders)
        self._fail("The rollout engine was stopped.", orders)

    def _wait(self) -> bool:
        """Until there is something to do. Returns whether to go on."""
        with self._news:
            self._news.wait_for(lambda: self._stopping or self._orders or self._given_up or self._busy)
            return not self._stopping

    @property
    def _busy(self) -> bool:
        return self.engine.running + self.engine.waiting > 0

    def _abort_given_up(self) -> None:
        with self._news:
            given_up, self._given_up = self._given_up, []
        for asked in given_up:
            self._drop(asked)

    def _take_orders(self) -> None:
        """Hand requests to the engine, as far as no job stands before them that waits for what is under way."""
        while True:
            with self._news:
                order = self._orders[0] if self._orders else None
                if order is None or (isinstance(order, _Job) and self._busy and not order.future.cancelled()):
                    return
                self._orders.popleft()
            if isinstance(order, _Job):
                order.run()
            elif not order.over:
                self._submit(order)

    def _submit(self, asked: _Asked) -> None:
        try:
            for index, request in enumerate(asked.requests):
                ticket = next(self._tickets)
                self.engine.submit(ticket, request, asked.params)
                asked.tickets.add(ticket)
                self._asked_by[ticket] = asked, index
        except UserError as error:
            self._drop(asked)
            asked.answer(error)

    def _step(self) -> None:
        found: dict[_Asked, list[Found]] = {}
        for ticket, response in self.engine.step():
            asked, index = self._asked_by.pop(ticket)
            asked.tickets.remove(ticket)
            found.setdefault(asked, []).append((index, response))
        for asked, responses in found.items():
            asked.answer(responses)
        if self._token_delay_s:
            time.sleep(self._token_delay_s)

    def _drop(self, asked: _Asked) -> None:
        """Have the engine forget what is left of a call, or what it has not seen of it yet."""
        asked.over = True
        self.engine.abort(asked.tickets)
        for ticket in asked.tickets:
            del self._asked_by[ticket]
        asked.tickets.clear()

    def _fail(self, why: str, orders: Sequence[_Asked | _Job]) -> None:
        """Tell everybody whose requests are under way, and who gave these orders; then forget the requests."""
        waiting = {asked for asked, _ in self._asked_by.values()} | {one for one in orders if isinstance(one, _Asked)}
        for asked in waiting:
            asked.answer(UserError(why))
        for order in orders:
            if isinstance(order, _Job) and order.future.set_running_or_notify_cancel():
                order.future.set_exception(UserError(why))
        for asked in waiting:
            self._drop(asked)
