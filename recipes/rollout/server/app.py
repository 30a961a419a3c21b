"""The HTTP face of the rollout server (docs/rollouts.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request, Response

import crossthink
from conf.rollout import ServeRolloutConfig
from recipes.rollout.interface import RefitError, ServedEngine
from recipes.rollout.refit.offer import Offer
from recipes.rollout.server.bodies import check_folder, read_generate, read_object
from recipes.rollout.server.identity import Identity
from recipes.rollout.server.metrics import CountRequests
from recipes.rollout.server.openai_api import routes as openai_routes
from recipes.rollout.server.openai_api.words import Words
from recipes.rollout.server.refusals import Conflict
from recipes.rollout.server.service import Service
from recipes.rollout.server.streams import Growing, Pulse, sample_lines
from reward_server.access import TokenGate
from reward_server.service import Refused
from reward_server.wire import AsciiJson, ClientGone, until_gone

DESCRIPTION = """Token ids in; ids, log-probs and the weight version out.
`/v1/generate` is the trainer's; `/v1/completions` and `/v1/chat/completions` are OpenAI's."""
SMALL_MB = 1
"""Size limit of bodies that hold no prompts, MiB."""


def create_app(config: ServeRolloutConfig, engine: ServedEngine, words: Words, model: str, on_gpu: bool) -> FastAPI:
    """The application. Whoever runs it starts the engine before and stops it after.

    Args:
        config: limits and secrets.
        engine: what generates.
        words: text to ids and back, for OpenAI's endpoints.
        model: what those call the model.
        on_gpu: the weights lie in GPU memory.

    Returns:
        The application; `app.state.service` is what it serves.
    """
    service = Service(config, engine, model)
    app = FastAPI(title="CrossThink rollout server", description=DESCRIPTION, version=crossthink.__version__)
    app.state.service = service

    @app.exception_handler(Refused)
    async def refused(request: Request, refusal: Refused) -> Response:
        body: dict[str, Any] = {"detail": refusal.detail}
        if isinstance(refusal, Conflict):
            body["version"] = refusal.version
        headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
        return AsciiJson(body, refusal.status, headers)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)  # read by nobody

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return AsciiJson({"detail": f"the server failed: {type(error).__name__}: {error}"}, 500)

    _add_health(app, service)
    _add_generate(app, service)
    _add_refit(app, service, Identity(engine, on_gpu, config.weights_dir))
    app.include_router(openai_routes.router(service, words))
    app.add_middleware(TokenGate, token=config.token)
    paths = frozenset(getattr(route, "path", "") for route in app.routes)
    app.add_middleware(CountRequests, metrics=service.metrics, paths=paths)  # the last one is the outermost
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> Response:
        """Alive, with which weights and how much to do."""
        load = service.engine.load()
        return AsciiJson(
            {
                "status": "ok",
                "engine": service.engine.name,
                "version": service.engine.version,
                "running": load["running"],
                "waiting": load["waiting"],
                "model": service.model,
            }
        )

    @app.get("/readyz", tags=["health"])
    async def readyz() -> Response:
        """200 while it can generate; 503 without weights, asleep, or at its end."""
        return AsciiJson({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", tags=["health"])
    async def metrics() -> Response:
        """Counters and histograms in Prometheus' text format."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_generate(app: FastAPI, service: Service) -> None:
    @app.post("/v1/generate", tags=["rollouts"])
    async def generate(request: Request) -> Response:
        """Samples of groups of prompts, a line each as they finish (application/x-ndjson)."""
        body = await read_object(request, service.config.max_body_mb)
        asked = read_generate(body, service.engine.limits)
        flight = await until_gone(request, service.start(asked.requests, asked.params, asked.version))
        lines = sample_lines(flight, asked.requests, Pulse(service.engine))
        return Growing(service, flight, len(asked.requests), lines, "application/x-ndjson")

    @app.post("/v1/abort", tags=["rollouts"])
    async def abort(request: Request) -> Response:
        """Give up every sample under way, whoever asked for it."""
        _expect_nothing(await read_object(request, SMALL_MB))
        return AsciiJson({"aborted": service.abort("aborted by a request to /v1/abort")})


def _add_refit(app: FastAPI, service: Service, identity: Identity) -> None:
    @app.get("/v1/refit", tags=["weights"])
    async def describe() -> Response:
        """What a trainer has to know before it brings weights."""
        return AsciiJson(identity.to_json())

    @app.post("/v1/refit", tags=["weights"])
    async def refit(request: Request) -> Response:
        """Take new weights over, once nothing is under way; requests that come meanwhile wait."""
        body = await read_object(request, service.config.max_body_mb)
        offer = read_offer(body, identity, service)
        async with alone(request, service, "a refit"):
            return AsciiJson(await service.refit(offer.to_json()))

    @app.post("/v1/sleep", tags=["weights"])
    async def sleep(request: Request) -> Response:
        """Give the device's memory back, once nothing is under way."""
        _expect_nothing(await read_object(request, SMALL_MB))
        async with alone(request, service, "going to sleep"):
            await service.sleep()
        return AsciiJson({"version": service.engine.version})

    @app.post("/v1/wake", tags=["weights"])
    async def wake(request: Request) -> Response:
        """Take the device's memory again; a refit brings the weights."""
        _expect_nothing(await read_object(request, SMALL_MB))
        async with alone(request, service, "waking up"):
            await service.wake()
        return AsciiJson({"version": service.engine.version})


@asynccontextmanager
async def alone(request: Request, service: Service, what: str) -> AsyncIterator[None]:
    """`Service.alone`, where a client that goes away while it waits gives its turn up. What has begun goes on."""
    async with AsyncExitStack() as stack:
        await until_gone(request, stack.enter_async_context(service.alone(what)))
        yield


def read_offer(body: dict[str, Any], identity: Identity, service: Service) -> Offer:
    """The offer of a `POST /v1/refit`, with no more time than the server gives a refit.

    Raises:
        Conflict: 422 naming the field, 409 while the engine is asleep.
    """
    version = service.engine.version
    try:
        offer = Offer.from_json(body)
        check_folder(offer.folder, identity.weights_dir)
    except (ValueError, RefitError) as error:
        raise Conflict(422, str(error), version) from error
    except Refused as refusal:
        raise Conflict(refusal.status, refusal.detail, version) from refusal
    if service.asleep:
        raise Conflict(409, "the engine is asleep; POST /v1/wake first", version)
    return replace(offer, timeout_s=min(offer.timeout_s, service.config.refit_deadline_s))


def _expect_nothing(body: dict[str, Any]) -> None:
    if body:
        raise Refused(422, f"{min(body)}: unknown field, allowed is an empty object")
