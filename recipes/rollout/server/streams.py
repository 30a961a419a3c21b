"""Replies that grow while samples finish: a line, or an event, for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any

import fastapi
import orjson
from fastapi import Response

from crossthink.errors import UserError
from recipes.rollout.interface import Request, ServedEngine
from recipes.rollout.server.flight import Flight
from recipes.rollout.server.service import Service
from reward_server.wire import ClientGone, until_gone

ALIVE_S = 2.0
"""Seconds without a sample after which a line says that the server still works on them."""


class Growing(Response):
    """A reply in parts, written as they come. A client that goes away aborts its samples.

    Args:
        service: the flight is handed back to it at the end.
        flight: what the parts are made from.
        samples: in the flight, at its start.
        parts: the body.
        media_type: of the body.
    """

    def __init__(
        self, service: Service, flight: Flight, samples: int, parts: AsyncGenerator[bytes, None], media_type: str
    ):
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._service, self._flight, self._samples, self._parts = service, flight, samples, parts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the parts."""
        try:
            with suppress(ClientGone):
                await until_gone(fastapi.Request(scope, receive), self._send(send))
        finally:
            await self._service.finish(self._flight, self._samples)

    async def _send(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._parts) as parts:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Pulse:
    """Whether the engine gets on. Where it counts free tokens, its load changes with every token that it draws; an
    engine that hangs then sends no sign of life, and its client asks another server.
    """

    def __init__(self, engine: ServedEngine):
        self._engine = engine
        self._last: dict[str, int] = {}

    def beats(self) -> bool:
        """Whether it did anything since the last call, as far as it can tell."""
        last, self._last = self._last, self._engine.load()
        return "free_tokens" not in self._last or self._last != last


async def sample_lines(flight: Flight, requests: Sequence[Request], pulse: Pulse) -> AsyncGenerator[bytes, None]:
    """The lines of `/v1/generate`, as many as came together at a time."""
    done = 0
    try:
        while True:
            try:
                found = await flight.take(ALIVE_S)
            except TimeoutError:
                if pulse.beats():
                    yield line({"alive": flight.left})
                continue
            if not found:
                break
            done += len(found)
            yield b"".join(
                line(
                    {
                        "prompt": requests[index].prompt,
                        "sample": requests[index].sample,
                        "token_ids": response.token_ids,
                        "log_probs": response.log_probs,
                        "finish_reason": response.finish_reason,
                        "weight_version": response.weight_version,
                    }
                )
                for index, response in found
            )
    except UserError as error:
        yield line({"error": str(error)})
        return
    yield line({"done": done})


def line(value: dict[str, Any]) -> bytes:
    """One line of NDJSON."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
