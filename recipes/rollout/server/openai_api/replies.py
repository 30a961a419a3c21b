"""Replies and events as OpenAI's clients read them."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import orjson

from recipes.rollout.server.openai_api.words import Choice

DONE = b"data: [DONE]\n\n"
STILL_THERE = b": alive\n\n"
"""A comment: no client reads it, and no proxy gives the connection up."""


class Shape(Protocol):
    """How one endpoint writes a choice."""

    reply: str
    """`object` of a whole reply."""
    event: str
    """`object` of an event."""
    prefix: str
    """Of ids."""

    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """A choice of a whole reply."""
        ...

    def deltas(self, index: int, choice: Choice) -> Iterator[dict[str, Any]]:
        """The same choice as a stream's events have it."""
        ...


class Completion:
    """`/v1/completions`."""

    reply = event = "text_completion"
    prefix = "cmpl-"

    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """See `Shape`."""
        return {
            "index": index,
            "text": choice.text,
            "logprobs": self._log_probs(choice) if choice.tokens else None,
            "finish_reason": choice.finish_reason,
        }

    def deltas(self, index: int, choice: Choice) -> Iterator[dict[str, Any]]:
        """See `Shape`."""
        yield self.choice(index, choice)

    def _log_probs(self, choice: Choice) -> dict[str, Any]:
        offsets = itertools.accumulate(map(len, choice.tokens[:-1]), initial=0)
        return {
            "tokens": choice.tokens,
            "token_logprobs": choice.log_probs,
            "top_logprobs": None,
            "text_offset": list(offsets),
        }


class Chat:
    """`/v1/chat/completions`."""

    reply, event = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl-"

    def choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """See `Shape`."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._log_probs(choice) if choice.tokens else None,
            "finish_reason": choice.finish_reason,
        }

    def deltas(self, index: int, choice: Choice) -> Iterator[dict[str, Any]]:
        """See `Shape`."""
        yield {
            "index": index,
            "delta": {"role": "assistant", "content": choice.text},
            "logprobs": self._log_probs(choice) if choice.tokens else None,
            "finish_reason": None,
        }
        yield {"index": index, "delta": {}, "logprobs": None, "finish_reason": choice.finish_reason}

    def _log_probs(self, choice: Choice) -> dict[str, Any]:
        content = [
            {"token": token, "logprob": log_prob, "bytes": list(token.encode()), "top_logprobs": []}
            for token, log_prob in zip(choice.tokens, choice.log_probs, strict=True)
        ]
        return {"content": content, "refusal": None}


class Reply:
    """What the parts of one reply have in common.

    Args:
        shape: of the endpoint.
        model: as the client knows it.
        prompt_tokens: of all prompts, each once.
        fingerprint: changes whenever equal seeds may give other tokens: engine and weight version.
    """

    def __init__(self, shape: Shape, model: str, prompt_tokens: int, fingerprint: str):
        self._shape, self._prompt_tokens = shape, prompt_tokens
        self._head = {
            "id": shape.prefix + uuid.uuid4().hex,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, choices: dict[int, Choice]) -> dict[str, Any]:
        """The reply, choices in order."""
        found = [self._shape.choice(index, choices[index]) for index in sorted(choices)]
        generated = sum(choice.generated for choice in choices.values())
        return {**self._head, "object": self._shape.reply, "choices": found, "usage": self._usage(generated)}

    def events(self, index: int, choice: Choice) -> bytes:
        """The events of one choice, which comes whole."""
        return b"".join(self._event(choices=[delta]) for delta in self._shape.deltas(index, choice))

    def usage_event(self, generated: int) -> bytes:
        """The last event where the client asked for usage."""
        return self._event(choices=[], usage=self._usage(generated))

    def _event(self, **parts: Any) -> bytes:
        return event({**self._head, "object": self._shape.event, **parts})

    def _usage(self, generated: int) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self._prompt_tokens + generated,
        }


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"
