"""The HTTP face of the reward server (docs: the verdict contract)."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

import crossthink
from conf.reward import ServeRewardConfig
from reward_server.batch import CHUNK
from reward_server.service import Refused, Service
from reward_server.verdicts import Item
from reward_server.wire import AsciiJson, read_json


def create_app(config: ServeRewardConfig) -> FastAPI:
    """The application; its workers start and end with it."""
    service = Service(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="CrossThink reward server",
        version=crossthink.__version__,
        lifespan=lifespan,
        default_response_class=AsciiJson,
    )

    @app.exception_handler(Refused)
    async def refused(request: Request, refusal: Refused) -> Response:
        headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
        return AsciiJson({"detail": refusal.detail}, refusal.status, headers)

    @app.get("/healthz")
    async def healthz() -> Response:
        """Alive, and under which rules."""
        return AsciiJson(
            {
                "status": "ok",
                "version": crossthink.__version__,
                "rules_hash": service.rules_hash,
                "match": config.match,
                "workers": config.workers,
            }
        )

    @app.post("/v1/score")
    async def score(request: Request) -> Response:
        """Judge a batch: as many verdicts as items, in the same order."""
        check_token(request, config.token)
        items = await read_items(await read_json(request, config.max_body_mb), config.max_items)
        verdicts = await service.score(items, "v1")
        return AsciiJson({"rules_hash": service.rules_hash, "items": [verdict.to_json() for verdict in verdicts]})

    return app


def check_token(request: Request, token: str | None) -> None:
    """Raises 401 unless the request carries the shared secret (or none is set)."""
    if token is None:
        return
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Refused(401, "Authorization: this server needs `Authorization: Bearer TOKEN` with its token=")


async def read_items(request: Any, max_items: int) -> list[Item]:
    """The items of a request. Raises 422 naming the item's index, its field and what is allowed there."""
    if not isinstance(request, dict) or not isinstance(request.get("items"), list):
        raise Refused(422, 'items: expected a JSON object {"items": [...]}')
    if len(request["items"]) > max_items:
        raise Refused(413, f"items: {len(request['items'])} is above max_items={max_items}; send fewer at a time")
    items = []
    for index, obj in enumerate(request["items"]):
        if index % CHUNK == 0:
            await asyncio.sleep(0)  # other requests are answered in between
        try:
            items.append(Item.from_json(obj))
        except ValueError as error:
            raise Refused(422, f"items[{index}].{error}") from error
    return items
