"""OpenRLHF's remote reward: POST /get_reward, as `--reward.remote_url` calls it.

Request: `{"query": [prompt + response], "prompts": [...], "labels": [...]}`, one entry a sample; with several servers
OpenRLHF sends empty lists to all but one. A query is the decoded sequence with its special tokens. A label is the row's
`reward_item`. Reply: `{"rewards": [...], "scores": [...], "extra_logs": {name: [...]}}`; `scores`, 0 or 1 whatever the
shaping, decide dynamic filtering. (Shapes: OpenRLHF 0.11.2, openrlhf/utils/agent.py and openrlhf/cli/serve_rm.py.)
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from reward_server.protocols.prompts import opens_thinking, response_after, without_end_tokens
from reward_server.protocols.questions import answered, read_question
from reward_server.protocols.rewards import InvalidItems, refused, score_of, share, to_numbers
from reward_server.service import Refused, Service
from reward_server.verdicts import Item, show
from reward_server.wire import AsciiJson, read_json, until_gone

LISTS = ("query", "prompts", "labels")
CHUNK = 32
"""Samples read between two looks at other requests."""


def router(service: Service) -> APIRouter:
    """The routes of this protocol."""
    routes = APIRouter(tags=["OpenRLHF"])

    @routes.post("/get_reward")
    async def get_reward(request: Request) -> Response:
        """Rewards of complete sequences, for OpenRLHF's `--reward.remote_url`."""
        items = await read_items(await read_json(request, service.config.max_body_mb))
        verdicts = await until_gone(request, service.score(items, "openrlhf"))
        invalid_as = service.config.invalid_as
        try:
            rewards = to_numbers(items, verdicts, invalid_as)
        except InvalidItems as error:
            raise refused(error) from error
        return AsciiJson(
            {
                "rewards": rewards,
                "scores": [score_of(verdict, invalid_as) for verdict in verdicts],
                "extra_logs": {
                    "accuracy": [share(verdict.accuracy, invalid_as) for verdict in verdicts],
                    "format": [float(verdict.format) for verdict in verdicts],
                    "invalid": [float(not verdict.is_valid) for verdict in verdicts],
                },
            }
        )

    return routes


async def read_items(body: Any) -> list[Item]:
    """The items of a request. Raises Refused (422) naming the list, the index and what is allowed there."""
    if not isinstance(body, dict):
        raise Refused(422, f"body: is {show(body)}, expected a JSON object with {', '.join(LISTS)}")
    for name in LISTS:
        if not isinstance(body.get(name), list):
            raise Refused(422, f"{name}: is {show(body.get(name))}, expected a list with one entry a sample")
    if len({len(body[name]) for name in LISTS}) != 1:
        lengths = ", ".join(f"{len(body[name])} {name}" for name in LISTS)
        raise Refused(422, f"{', '.join(LISTS)}: must be of one length, there are {lengths}")
    items = []
    for index, entry in enumerate(zip(*(body[name] for name in LISTS), strict=True)):
        if index % CHUNK == 0:
            await asyncio.sleep(0)  # other requests are answered in between
        items.append(_item(index, *entry))
    return items


def _item(index: int, query: Any, prompt: Any, label: Any) -> Item:
    for name, value in (("query", query), ("prompts", prompt)):
        if not isinstance(value, str):
            raise Refused(422, f"{name}[{index}]: {show(value)} is not a string")
    try:
        question = read_question(label)
    except ValueError as error:
        raise Refused(
            422, f"labels[{index}]: {error}. Is --data.label_key the column with the rows' reward_item?"
        ) from error
    try:
        response = without_end_tokens(response_after(query, prompt))
    except ValueError as error:
        raise Refused(422, f"query[{index}]: {error}") from error
    prefilled = question.think_prefilled or opens_thinking(prompt)
    return answered(question, f"query[{index}]", response, think_prefilled=prefilled)
