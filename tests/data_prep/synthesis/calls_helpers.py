"""Requests for a scripted endpoint, and a caller of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from synth_endpoint import Chat

from crossthink.endpoint import Access, Endpoint
from data_prep.synthesis.calls.budget import Budget, Prices, total
from data_prep.synthesis.calls.caller import Caller
from data_prep.synthesis.calls.request import Request
from data_prep.synthesis.calls.store import AnswerStore

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}


def request(number: int, **changed: Any) -> Request:
    """Question `number`, in free text."""
    usual: dict[str, Any] = {
        "purpose": "question",
        "messages": [{"role": "user", "content": f"Question {number}?"}],
        "max_tokens": 50,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
    }
    return Request(**{**usual, **changed})


def json_request(number: int, **changed: Any) -> Request:
    """Question `number`, whose answer is to be an object."""
    return request(number, **{"schema": SCHEMA, "schema_name": "answer", **changed})


def chat_of(one: Request) -> Chat:
    """The request as the scripted endpoint sees it."""
    return Chat([dict(message) for message in one.messages], one.options(False).get("seed"))


@contextlib.asynccontextmanager
async def calling(url: str, path: Path, **changed: Any) -> AsyncIterator[Caller]:
    """A caller with a store in `path`, and whatever settings are not to be the usual ones."""
    budget = {"tokens": changed.pop("tokens", None), "cost": None, "prices": Prices(0, 0)}
    access = {"model": "small", "token": None, "deadline_s": 20.0, "retries": 2}
    access |= {name: changed.pop(name) for name in tuple(access) if name in changed}
    usual = {"concurrency": 8, "json_mode": "auto", "json_tries": 3, "late_in_a_row": 1000, "retry_failed": False}
    with AnswerStore(path) as store:
        limit = Budget(**budget, spent=total(store.spent().values()))
        async with Caller(Endpoint(Access(url, **access)), store, limit, **{**usual, **changed}) as caller:
            yield caller
