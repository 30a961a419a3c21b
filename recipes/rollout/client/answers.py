"""What a rollout server sends, line by line, held against what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from recipes.rollout.interface import FINISH_LENGTH, FINISH_STOP, Request, Response, SamplingParams
from reward_server.verdicts import show

LINE_BYTES = 64 * 1024
"""Longest line, beside what its tokens need."""
TOKEN_BYTES = 64
"""More than a token id and its log-probability take in JSON."""


class BadAnswer(Exception):
    """A server sent something that is no answer to what it was asked."""


async def lines(parts: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Whole lines of a stream, without their ends.

    Args:
        parts: the stream.
        limit: bytes of the longest line allowed.

    Raises:
        BadAnswer: a line is longer, or the stream ends in the middle of one.
    """
    rest = bytearray()
    async for part in parts:
        *ended, last = part.split(b"\n")
        for piece in ended:
            rest += piece
            if len(rest) > limit:
                break
            yield bytes(rest)
            rest.clear()
        else:
            rest += last
        if len(rest) > limit:
            raise BadAnswer(f"sent a line of more than {limit} bytes")
    if rest:
        raise BadAnswer(f"ended in the middle of a line: {show(rest.decode('utf-8', errors='replace'))}")


def parse(line: bytes) -> dict[str, Any]:
    """A line as the object that it must be. Its numbers are finite: the parser takes no others.

    Raises:
        BadAnswer: it is none.
    """
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadAnswer(f"sent a line that is not JSON: {show(line.decode('utf-8', errors='replace'))}") from error
    if not isinstance(fields, dict):
        raise BadAnswer(f"sent a line that is no object: {show(fields)}")
    return fields


def numbers(fields: dict[str, Any]) -> tuple[int, int]:
    """Prompt and sample number of a sample's line.

    Raises:
        BadAnswer: it has none.
    """
    prompt, sample = fields.get("prompt"), fields.get("sample")
    if type(prompt) is not int or type(sample) is not int:
        raise BadAnswer(
            f"sent a sample of prompt {show(prompt)}, sample {show(sample)}: no such numbers were asked for"
        )
    return prompt, sample


def response(fields: dict[str, Any], request: Request, params: SamplingParams, version: int | None) -> Response:
    """A sample's line as a response to its request.

    Args:
        fields: the line.
        request: what was asked.
        params: how it was to be drawn.
        version: the weight version asked for; None: any.

    Raises:
        BadAnswer: it is none; names prompt, sample, field and value.
    """

    def bad(what: str) -> BadAnswer:
        return BadAnswer(f"sent a bad sample {request.sample} of prompt {request.prompt}: {what}")

    ids, log_probs = fields.get("token_ids"), fields.get("log_probs")
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise bad(f"token_ids: {show(ids)} is no list of integers")
    budget = request.budget(params)
    if not 1 <= len(ids) <= budget:
        raise bad(f"token_ids: {len(ids)} tokens; 1 to {budget} were asked for")
    if not 0 <= min(ids) <= max(ids) < params.vocabulary:
        wrong = next(one for one in ids if not 0 <= one < params.vocabulary)
        raise bad(f"token_ids: {wrong} is beyond the tokenizer's {params.vocabulary} ids")
    if not isinstance(log_probs, list) or not all(type(one) in (float, int) for one in log_probs):
        raise bad(f"log_probs: {show(log_probs)} is no list of numbers")
    if len(log_probs) != len(ids):
        raise bad(f"log_probs: {len(log_probs)} for {len(ids)} tokens")
    finish = fields.get("finish_reason")
    if finish not in (FINISH_STOP, FINISH_LENGTH):
        raise bad(f"finish_reason: {show(finish)}; allowed are {FINISH_STOP} and {FINISH_LENGTH}")
    if (ids[-1] in params.stop_ids) != (finish == FINISH_STOP):
        raise bad(f"finish_reason: {finish}, and the last token is {ids[-1]}; stop ids are {list(params.stop_ids)}")
    drawn_with = fields.get("weight_version")
    if type(drawn_with) is not int or version not in (None, drawn_with):
        raise bad(f"weight_version: {show(drawn_with)}; asked for was {version}")
    return Response(ids, [float(one) for one in log_probs], finish, drawn_with)
