"""OpenAI's endpoints: models, completions, chat completions.

Samples come whole from the engine, so that a stream holds each choice as one piece, in the order in which they finish;
and a stop string cuts the text, but ends the generation only at the token budget or a stop token.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Sequence

import fastapi
from fastapi import APIRouter, Response

from crossthink.errors import UserError
from recipes.rollout.interface import Request, RequestError, SamplingParams
from recipes.rollout.server.bodies import read_object
from recipes.rollout.server.flight import Flight
from recipes.rollout.server.openai_api.asked import Asked, read_chat, read_completion
from recipes.rollout.server.openai_api.errors import ApiError, OpenaiRoute, no_such_model
from recipes.rollout.server.openai_api.replies import DONE, STILL_THERE, Chat, Completion, Reply, Shape, event
from recipes.rollout.server.openai_api.words import Choice, Words
from recipes.rollout.server.service import Service
from recipes.rollout.server.streams import ALIVE_S, Growing, Pulse
from reward_server.wire import AsciiJson, until_gone

OWNER = "crossthink"


def router(service: Service, words: Words) -> APIRouter:
    """The endpoints below /v1."""
    routes = APIRouter(route_class=OpenaiRoute, tags=["openai"])
    endpoint = _Endpoint(service, words)
    card = {"id": service.model, "object": "model", "created": int(time.time()), "owned_by": OWNER}

    @routes.get("/v1/models")
    async def models() -> Response:
        """The one model that is served."""
        return AsciiJson({"object": "list", "data": [card]})

    @routes.get("/v1/models/{model:path}")
    async def one_model(model: str) -> Response:
        """The same by name."""
        if model != service.model:
            raise no_such_model(model, service.model)
        return AsciiJson(card)

    @routes.post("/v1/completions")
    async def completions(request: fastapi.Request) -> Response:
        """Texts that go on from prompts, which may be token ids."""
        asked = read_completion(await read_object(request, service.config.max_body_mb), service.model)
        prompts = [one if isinstance(one, tuple) else await words.encode(one) for one in asked.prompts]
        return await endpoint.answer(request, asked, prompts, Completion(), "prompt")

    @routes.post("/v1/chat/completions")
    async def chat(request: fastapi.Request) -> Response:
        """Answers to a conversation, which the model's own chat template writes out."""
        asked = read_chat(await read_object(request, service.config.max_body_mb), service.model)
        return await endpoint.answer(request, asked, [await words.chat(asked.prompts[0])], Chat(), "messages")

    return routes


class _Endpoint:
    """Both endpoints, once prompts are token ids."""

    def __init__(self, service: Service, words: Words):
        self._service, self._words = service, words
        self._vocabulary = min(words.vocabulary, service.engine.limits.vocabulary)
        self._draws = itertools.count(1)  # step 0 is that of requests with a seed

    async def answer(
        self, request: fastapi.Request, asked: Asked, prompts: Sequence[tuple[int, ...]], shape: Shape, name: str
    ) -> Response:
        """Generate, and reply at once or as events.

        Args:
            prompts: as token ids.
            shape: of the reply.
            name: of the parameter that holds the prompts, for messages.

        Raises:
            ApiError: a prompt or budget beyond the engine's limits.
            Refused: see `Service.start`.
        """
        params = self._params(asked, prompts)
        requests = [Request(ids, prompt, sample) for prompt, ids in enumerate(prompts) for sample in range(asked.n)]
        for one in requests[:: asked.n]:
            self._check(one, params, name)
        flight = await until_gone(request, self._service.start(requests, params))
        fingerprint = f"{self._service.engine.name}-weights-{self._service.engine.version}"
        reply = Reply(shape, self._service.model, sum(map(len, prompts)), fingerprint)
        if asked.stream:
            events = self._events(flight, asked, reply)
            return Growing(self._service, flight, len(requests), events, "text/event-stream")
        try:
            choices = await until_gone(request, self._collect(flight, asked))
        finally:
            await self._service.finish(flight, len(requests))
        return AsciiJson(reply.whole(choices))

    def _params(self, asked: Asked, prompts: Sequence[tuple[int, ...]]) -> SamplingParams:
        limits = self._service.engine.limits
        left = limits.max_total_tokens - max(map(len, prompts))
        return SamplingParams(
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_tokens=max(1, min(left, asked.usual_tokens)) if asked.max_tokens is None else asked.max_tokens,
            stop_ids=self._words.stop_ids,
            vocabulary=self._vocabulary,
            seed=self._service.config.seed if asked.seed is None else asked.seed,
            step=next(self._draws) if asked.seed is None else 0,
        )

    def _check(self, request: Request, params: SamplingParams, name: str) -> None:
        try:
            self._service.engine.limits.check(request, params)
        except RequestError as error:
            field, colon, rest = str(error).partition(":")
            param = name if field == "prompt_ids" else field
            raise ApiError(400, param + colon + rest, param) from error

    async def _collect(self, flight: Flight, asked: Asked) -> dict[int, Choice]:
        choices = {}
        try:
            while found := await flight.take(None):
                for index, response in found:
                    choices[index] = await self._words.choice(response, asked.stop, asked.logprobs)
        except UserError as error:
            raise ApiError(500, str(error)) from error
        return choices

    async def _events(self, flight: Flight, asked: Asked, reply: Reply) -> AsyncGenerator[bytes, None]:
        generated, pulse = 0, Pulse(self._service.engine)
        try:
            while True:
                try:
                    found = await flight.take(ALIVE_S)
                except TimeoutError:
                    if pulse.beats():
                        yield STILL_THERE
                    continue
                if not found:
                    break
                for index, response in found:
                    choice = await self._words.choice(response, asked.stop, asked.logprobs)
                    generated += choice.generated
                    yield reply.events(index, choice)
        except UserError as error:
            yield event(ApiError(500, str(error)).to_json())
            return
        if asked.include_usage:
            yield reply.usage_event(generated)
        yield DONE
