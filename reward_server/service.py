"""What every protocol of the server calls: items in, verdicts out, with limits, counters and one copy of the rules."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import crossthink
from conf.reward import ServeRewardConfig
from reward_server import shaping
from reward_server.batch import judge_batch
from reward_server.metrics import Metrics
from reward_server.pool import WorkerPool
from reward_server.replies import RepeatedWithOtherItems, Replies
from reward_server.turns import Turn, Turns
from reward_server.verdicts import Item, Verdict, rules_hash, show

log = logging.getLogger(__name__)

LONGEST_RETRY_S = 60
"""Longest Retry-After."""


class Refused(Exception):
    """A request that cannot be served.

    Args:
        status: the HTTP status.
        detail: the field, its value and what is allowed.
        retry_after_s: seconds after which the same request may be served; None where it never will be.
    """

    def __init__(self, status: int, detail: str, retry_after_s: int | None = None):
        super().__init__(detail)
        self.status, self.detail, self.retry_after_s = status, detail, retry_after_s


def check_item(item: Item, config: ServeRewardConfig, where: str = "") -> None:
    """Raises Refused for a response that is too long (413), or without a field that shaping needs (422).

    Args:
        where: what stands before the field's name in the message.
    """
    length, limit = len(item.response), config.max_response_chars
    if length > limit:
        raise Refused(
            413, f"{where}response: {length} characters (id {show(item.id)}), above max_response_chars={limit}"
        )
    if missing := shaping.missing(item, config.shaping):
        raise Refused(422, where + missing)


class Service:
    """Judges batches for the protocols. One per server.

    Attributes:
        config: as given.
        rules_hash: of the rules that it judges by.
        pool: the math workers; there between `__aenter__` and `__aexit__`.
        metrics: what it counts.
        ready: requests are taken: the workers are there and the server is not draining.
        queue: items under way.
        turns: of the requests that compute in this process.
    """

    def __init__(self, config: ServeRewardConfig):
        self.config = config
        self.rules_hash = rules_hash(config.match, config.shaping)
        self.pool = WorkerPool(config.workers, config.deadline_s, config.worker_memory_mb, config.warm_up)
        facts = {"version": crossthink.__version__, "rules_hash": self.rules_hash, "match": config.match}
        self.metrics = Metrics(facts, self.pool, lambda: self.queue)
        self.ready = False
        self.queue = 0
        self.turns = Turns()
        self._replies = Replies()
        self._rate = 1000.0  # verdicts a second, lately

    async def __aenter__(self) -> Service:
        await self.pool.__aenter__()
        self.ready = True
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.ready = False
        await self.pool.__aexit__(*exception)

    async def score(
        self, items: Sequence[Item], protocol: str, request_id: str | None = None, turn: Turn | None = None
    ) -> list[Verdict]:
        """Verdicts in the order of the items, shaped as the configuration says.

        Args:
            protocol: who asks, for the counters: "v1", "openrlhf", "nemo_gym", …
            request_id: the caller's name for this request. Asked again, it is not judged or counted again.
            turn: of this request, ended when its items have been looked at; None: it takes one.

        Raises:
            Refused: too many or too long items (413), an item without a field that shaping needs or a request id that
                was used for other items (422), or a full queue (429).
        """
        started, code = time.perf_counter(), 500
        turn = turn or self.turns.request(len(items))
        try:
            self._check(items)
            if request_id is None:
                verdicts = await self._judge(items, protocol, turn)
            else:
                turn.end()  # who asks again may wait for what another task computes
                verdicts = await self._replies.once(
                    request_id, items, lambda: self._judge(items, protocol, turn.again())
                )
            code = 200
            return verdicts
        except RepeatedWithOtherItems as error:
            code = 422
            raise Refused(422, f"request_id: {show(request_id)} was used for other items") from error
        except Refused as refusal:
            code = refusal.status
            raise
        except asyncio.CancelledError:
            code = 499  # the client has gone
            raise
        finally:
            seconds = time.perf_counter() - started
            self.metrics.answered(protocol, code, seconds)
            log.info("score", extra={"fields": self._line(items, protocol, request_id, code, seconds)})

    def counters(self) -> dict[str, Any]:
        """The few numbers that the server's own page shows."""
        return self.metrics.counters()

    async def _judge(self, items: Sequence[Item], protocol: str, turn: Turn) -> list[Verdict]:
        self._admit(len(items))
        started = time.perf_counter()
        self.queue += len(items)
        try:
            plain = await judge_batch(items, self.config.match, self.pool, turn)
        finally:
            self.queue -= len(items)
        if items:
            self._rate = 0.9 * self._rate + 0.1 * len(items) / max(1e-4, time.perf_counter() - started)
        verdicts = [shaping.shape(one, item, self.config.shaping) for one, item in zip(plain, items, strict=True)]
        self.metrics.count(protocol, items, verdicts)
        if self.config.log_responses:
            for item, verdict in zip(items, verdicts, strict=True):
                log.info("item", extra={"fields": {"item": item.to_json(), "verdict": verdict.to_json()}})
        return verdicts

    def _check(self, items: Sequence[Item]) -> None:
        limit = self.config.max_items
        if len(items) > limit:
            raise Refused(413, f"items: {len(items)} is above max_items={limit}; send fewer at a time")
        for index, item in enumerate(items):
            check_item(item, self.config, f"items[{index}].")

    def _admit(self, more: int) -> None:
        """An empty queue takes every batch; a filled one takes what fits."""
        if self.queue and self.queue + more > self.config.max_queue:
            wait = min(LONGEST_RETRY_S, max(1, math.ceil(self.queue / self._rate)))
            raise Refused(
                429, f"queue: {self.queue} items are under way, at most max_queue={self.config.max_queue}", wait
            )

    def _line(
        self, items: Sequence[Item], protocol: str, request_id: str | None, code: int, seconds: float
    ) -> dict[str, Any]:
        return {
            "protocol": protocol,
            "request_id": request_id,
            "items": len(items),
            "kinds": dict(Counter(item.kind for item in items)),
            "code": code,
            "ms": round(seconds * 1e3, 2),
            "queue": self.queue,
        }
