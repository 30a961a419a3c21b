"""Bodies in and out: JSON with a size limit, lone surrogates and all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio
import orjson
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from reward_server.service import Refused
from reward_server.verdicts import show

T = TypeVar("T")

BODY_S = 60.0
"""Seconds in which a whole body must arrive."""


class ClientGone(Exception):
    """The client closed the connection before its reply was ready."""


class AsciiJson(Response):
    """JSON in plain ASCII: lone surrogates, which models do produce, have no UTF-8 form."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Serialise with every other character escaped."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


async def read_json(request: Request, max_mb: int) -> Any:
    """The request's body as JSON.

    Raises:
        Refused: 413 as soon as the body is known to be longer than `max_mb` MiB, 422 where it is not JSON.
    """
    body = await read_body(request, max_mb)
    try:
        return parse_json(body)
    except (ValueError, RecursionError) as error:
        raise Refused(422, f"body: is not JSON ({show(str(error))})") from error


def parse_json(body: bytes) -> Any:
    """JSON by the fast parser, and by Python's own where that one refuses: it takes no lone surrogates.

    Raises:
        ValueError, RecursionError: it is not JSON, or nested too deep.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away: nobody would read it.

    Runs in the caller's task: each task more would wait for the event loop twice, which is dear on a busy server.

    Raises:
        ClientGone: the connection closed first.
    """
    mine, gone = asyncio.current_task(), False
    assert mine is not None

    async def watch() -> None:
        nonlocal gone
        await request.receive()  # the body has been read: what comes next is the end of the connection
        gone = True
        mine.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if gone:
            raise ClientGone from None
        raise
    finally:
        watching.cancel()


async def read_body(request: Request, max_mb: int) -> bytes:
    """The request's body.

    Raises:
        Refused: 413 as soon as it is known to be longer than `max_mb` MiB, 408 where it does not arrive in time.
    """
    try:
        with anyio.fail_after(BODY_S):  # asyncio.wait_for would start a task
            return await _read_body(request, max_mb)
    except TimeoutError as error:
        raise Refused(408, f"body: did not arrive within {BODY_S:g} s") from error
    except ClientDisconnect as error:
        raise ClientGone from error


async def _read_body(request: Request, max_mb: int) -> bytes:
    limit = max_mb << 20
    too_long = Refused(413, f"body: longer than max_body_mb={max_mb} MiB; send less at a time")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_long
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise too_long
    return bytes(body)
