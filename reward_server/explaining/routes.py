"""POST /v1/explain: one item in, its verdict and the steps to it out."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from reward_server import api_docs
from reward_server.explain import explain_for
from reward_server.explaining.steps import Step
from reward_server.service import Refused, Service
from reward_server.verdicts import STATUSES, Item
from reward_server.wire import AsciiJson, read_json, until_gone

EXAMPLE_ITEM = {
    "id": "b",
    "kind": "mcq",
    "response": "<think>It is Paris.</think> \\boxed{A. Paris}",
    "ground_truth": "B",
    "options": {"A": "Rome", "B": "Paris"},
}
_EXAMPLE_REPLY = {
    "verdict": {
        "id": "b",
        "reward": 0.0,
        "accuracy": 0,
        "format": 1,
        "extracted": "A. Paris",
        "status": "wrong",
        "elapsed_ms": 0.05,
    },
    "rules_hash": "0f3c5a9d2b11",
    "match": "equivalent",
    "steps": [
        Step(
            "answer",
            "answer",
            "different",
            "“A. Paris” is the label “A” with the text of option “B”, so it names nothing. Wanted: “B”.",
            "mcq",
        ).to_json(),
        Step("reward", "status", "wrong", "The format is kept, but the answer is not right: reward 0.").to_json(),
    ],
}
_STEP = {
    "type": "object",
    "required": ["step", "part", "result", "why", "rule", "source"],
    "properties": {
        "step": {"type": "string", "enum": ["finish", "format", "box", "gold", "answer", "shaping", "reward"]},
        "part": {"type": "string", "description": "What of it."},
        "result": {
            "type": "string",
            "description": "kept, broken; good, bad; equal, different, unsettled; note; or a status: "
            f"{', '.join(STATUSES)}. The last step's is the verdict's.",
        },
        "why": {"type": "string"},
        "rule": {"type": "string"},
        "source": {"type": "string"},
    },
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": api_docs.ITEM,
                "examples": {"a label with another option's text": {"value": EXAMPLE_ITEM}},
            }
        },
    }
}
_REPLIES: dict[int | str, dict[str, Any]] = {
    **{code: reply for code, reply in api_docs.SCORE_REPLIES.items() if code in (401, 408, 413, 422)},
    200: {
        "description": "The verdict, as /v1/score gives it, and the steps to it in order.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["verdict", "rules_hash", "match", "steps"],
                    "properties": {
                        "verdict": api_docs.VERDICT,
                        "rules_hash": {"type": "string"},
                        "match": {"type": "string"},
                        "steps": {"type": "array", "items": _STEP},
                    },
                },
                "example": _EXAMPLE_REPLY,
            }
        },
    },
}


def router(service: Service) -> APIRouter:
    """The route, for an application that turns `Refused` into its status and detail."""
    routes = APIRouter()

    @routes.post("/v1/explain", tags=["explain"], openapi_extra=_BODY, responses=_REPLIES)
    async def explain(request: Request) -> Response:
        """Why an item gets its verdict: every step of the rules, with its reason. Not counted in the metrics."""
        body = await read_json(request, service.config.max_body_mb)
        try:
            item = Item.from_json(body)
        except ValueError as error:
            raise Refused(422, str(error)) from error
        return AsciiJson(await until_gone(request, explain_for(service, item)))

    return routes
