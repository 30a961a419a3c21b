"""The server's own page: try a response, see why, watch the counters. It fetches nothing from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response

from reward_server.explain import explain_for
from reward_server.page_html import HEADERS, Asked, numbers, render
from reward_server.service import Refused, Service
from reward_server.verdicts import Item, show
from reward_server.wire import AsciiJson, read_body, until_gone

MAX_FIELDS = 40
"""Fields of one form."""

_OPTION = re.compile(r"\s*([^\s.:)]+)\s*[.:)]\s*(.*)")


def router(service: Service) -> APIRouter:
    """GET and POST `/` (the page), GET `/counters` (for its script)."""
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def linked(request: Request) -> Response:
        await read_body(request, service.config.max_body_mb)  # there is none; what follows it is a client that leaves
        return await _answer(request, service, request.url.query)

    @routes.post("/", include_in_schema=False)
    async def sent(request: Request) -> Response:
        body = await read_body(request, service.config.max_body_mb)
        return await _answer(request, service, body.decode("utf-8", "replace"))

    @routes.get("/counters", include_in_schema=False)
    async def counters() -> Response:
        return AsciiJson(numbers(service.counters()))

    return routes


async def _answer(request: Request, service: Service, form: str) -> Response:
    """The page for one form, sent or linked to. A form without a response is a new one."""
    code, asked = 200, Asked({})
    try:
        asked = Asked(_fields(form))
        if "response" in asked.fields:
            item = read_item(asked.fields)
            asked = Asked(asked.fields, await until_gone(request, explain_for(service, item)))
    except ValueError as error:
        code, asked = 422, Asked(asked.fields, fault=str(error))
    except Refused as refusal:
        code, asked = refusal.status, Asked(asked.fields, fault=refusal.detail)
    page = render(service.config, service.rules_hash, service.counters(), asked)
    return Response(page, code, HEADERS, media_type="text/html; charset=utf-8")


def read_item(fields: Mapping[str, str]) -> Item:
    """The item that a form describes. Raises ValueError naming the field, its value and what is allowed."""
    item: dict[str, Any] = {
        "id": "page",
        "kind": fields.get("kind", "math"),
        "response": fields["response"],
        "ground_truth": [line for line in fields.get("ground_truth", "").split("\n") if line.strip()],
        "think_prefilled": fields.get("think_prefilled") == "true",
        "finish_reason": "length" if fields.get("cut_off") == "true" else "stop",
    }
    if fields.get("options", "").strip():
        item["options"] = _options(fields["options"])
    if fields.get("source"):
        item["source"] = fields["source"]
    if tokens := fields.get("response_tokens", "").strip():
        item["response_tokens"] = int(tokens) if tokens.isdecimal() and len(tokens) < 16 else tokens
    return Item.from_json(item)


def _fields(form: str) -> dict[str, str]:
    """The form's texts. Browsers send line ends as CR LF; a model's response has LF."""
    sent = parse_qs(form, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    return {name: values[-1].replace("\r\n", "\n") for name, values in sent.items()}


def _options(text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for line in filter(str.strip, text.split("\n")):
        found = _OPTION.fullmatch(line)
        if found is None:
            raise ValueError(f"options: {show(line)} is not a label, then . or : or ), then its text")
        if found[1] in options:
            raise ValueError(f"options: the label {show(found[1])} is given twice")
        options[found[1]] = found[2].rstrip()
    return options
