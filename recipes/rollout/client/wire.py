"""Requests to rollout servers as bytes, and what is read of replies that are no stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import httpx
import orjson

from recipes.rollout.interface import Request, SamplingParams

BODY_IDS = 500_000
"""Prompt ids in one request: a few MB of JSON, well below every server's size limit."""
BODY_SAMPLES = 256
"""Samples in one request, where a group has no more: a server refuses one with more than its max_queue."""
REPLY_BYTES = 64 * 1024
"""What is read of a reply that is no stream."""


def bodies_of(groups: Iterable[list[Request]]) -> Iterator[list[list[Request]]]:
    """Groups put together, as many as go into one request."""
    together: list[list[Request]] = []
    ids, samples = 0, 0
    for group in groups:
        more = len(group[0].prompt_ids)
        if together and (ids + more > BODY_IDS or samples + len(group) > BODY_SAMPLES):
            yield together
            together, ids, samples = [], 0, 0
        together.append(group)
        ids += more
        samples += len(group)
    if together:
        yield together


def encode(groups: Sequence[list[Request]], params: SamplingParams, version: int | None) -> bytes:
    """The body of POST /v1/generate."""
    bodies = []
    for group in groups:
        body = {
            "prompt": group[0].prompt,
            "prompt_ids": group[0].prompt_ids,
            "samples": [request.sample for request in group],
        }
        if any(request.max_tokens is not None for request in group):
            body["max_tokens"] = [request.budget(params) for request in group]
        bodies.append(body)
    sampling = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
        "stop_ids": params.stop_ids,
        "vocabulary": params.vocabulary,
        "seed": params.seed,
        "step": params.step,
    }
    wanted = {} if version is None else {"version": version}
    return orjson.dumps({"sampling": sampling, "groups": bodies, **wanted})


async def beginning(reply: httpx.Response) -> bytes:
    """The first bytes of a reply's body, at most `REPLY_BYTES`."""
    content = bytearray()
    async for part in reply.aiter_raw():
        content += part
        if len(content) >= REPLY_BYTES:
            break
    return bytes(content[:REPLY_BYTES])


def retry_after_s(reply: httpx.Response) -> float | None:
    """Seconds that a reply asks to be left alone, where it says so in seconds."""
    text = reply.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() else None
