"""The HTTP face of the reward server (docs/rewards.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

import crossthink
from conf.reward import ServeRewardConfig
from reward_server import api_docs, page
from reward_server.access import TokenGate
from reward_server.explaining import routes
from reward_server.protocols import nemo_gym, openrlhf
from reward_server.service import Refused, Service
from reward_server.turns import Turn
from reward_server.verdicts import Item, show
from reward_server.wire import AsciiJson, ClientGone, read_json, until_gone


def create_app(config: ServeRewardConfig) -> FastAPI:
    """The application; its workers start and end with it. `app.state.service` is what it serves."""
    service = Service(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="CrossThink reward server",
        description=api_docs.DESCRIPTION,
        version=crossthink.__version__,
        lifespan=lifespan,
        default_response_class=AsciiJson,
    )
    app.state.service = service
    app.add_middleware(TokenGate, token=config.token)

    @app.exception_handler(Refused)
    async def refused(request: Request, refusal: Refused) -> Response:
        headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
        return AsciiJson({"detail": refusal.detail}, refusal.status, headers)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)  # read by nobody

    _add_health(app, service)
    _add_score(app, service)
    for protocol in (routes, page, openrlhf, nemo_gym):
        app.include_router(protocol.router(service))
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    config = service.config

    @app.get("/healthz", tags=["health"])
    async def healthz() -> Response:
        """Alive, and under which rules."""
        return AsciiJson(
            {
                "status": "ok",
                "version": crossthink.__version__,
                "rules_hash": service.rules_hash,
                "match": config.match,
                "shaping": api_docs.shaping(config.shaping),
                "workers": config.workers,
                "queue": service.queue,
            }
        )

    @app.get("/readyz", tags=["health"])
    async def readyz() -> Response:
        """200 while requests are taken; a server that starts does not answer yet, one that ends refuses connections."""
        return AsciiJson({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", tags=["health"])
    async def metrics() -> Response:
        """Counters and histograms in Prometheus' text format."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_score(app: FastAPI, service: Service) -> None:
    @app.post("/v1/score", tags=["score"], openapi_extra=api_docs.SCORE_BODY, responses=api_docs.SCORE_REPLIES)
    async def score(request: Request) -> Response:
        """Judge a batch: as many verdicts as items, in the same order."""
        body = await read_json(request, service.config.max_body_mb)
        entries, request_id = read_request(body, service.config.max_items)
        async with service.turns.request(len(entries)) as turn:
            items = await read_items(entries, turn)
            verdicts = await until_gone(request, service.score(items, "v1", request_id, turn))
        return AsciiJson({"rules_hash": service.rules_hash, "items": [verdict.to_json() for verdict in verdicts]})


def read_request(body: Any, max_items: int) -> tuple[Sequence[Any], str | None]:
    """The items, not looked at yet, and the request id of a `/v1/score` body.

    Raises:
        Refused: 422 naming the field and what is allowed there, 413 for too many items.
    """
    if not isinstance(body, dict) or not isinstance(body.get("items"), list):
        raise Refused(422, 'items: expected a JSON object {"items": [...]}')
    if unknown := sorted(body.keys() - {"items", "request_id"}):
        raise Refused(422, f"{show(unknown[0])}: unknown field, allowed are items, request_id")
    request_id = body.get("request_id")
    if request_id is not None and not (isinstance(request_id, str) and 0 < len(request_id) <= 200):
        raise Refused(422, f"request_id: {show(request_id)} is not a string of 1 to 200 characters")
    if len(body["items"]) > max_items:
        raise Refused(413, f"items: {len(body['items'])} is above max_items={max_items}; send fewer at a time")
    return body["items"], request_id


async def read_items(entries: Sequence[Any], turn: Turn) -> list[Item]:
    """The items of a `/v1/score` body. Raises Refused: 422 naming the item's index, its field and what is allowed."""
    items = []
    for index, obj in enumerate(entries):
        if turn.over:
            await turn.rest()
        try:
            items.append(Item.from_json(obj))
        except ValueError as error:
            dot = "." if isinstance(obj, dict) else ": "
            raise Refused(422, f"items[{index}]{dot}{error}") from error
    return items
