"""What is asked of a model, and what it can come to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROSE, REFUSED, CUT_OFF, LATE = "prose", "refused", "cut_off", "late"
REASONS = (PROSE, REFUSED, CUT_OFF, LATE)
"""Why a request failed for good: no JSON as asked for; refused; longer than max_tokens; no answer in time."""

MESSAGE_TOKENS, CHAT_TOKENS = 16, 64
"""Tokens that a chat template puts around a message and around a chat, at most."""


@dataclass(frozen=True)
class Usage:
    """What calls took.

    Attributes:
        calls: requests that were answered, refused or late.
        prompt_tokens, completion_tokens: of them together.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return self + Usage(-other.calls, -other.prompt_tokens, -other.completion_tokens)


@dataclass(frozen=True)
class Reply:
    """What a model wrote, as far as it got to its end.

    Attributes:
        text: with its reasoning, if any, as `<think>…</think>` before the answer.
        model: that was asked for.
        usage: of this call; where the endpoint does not count, the most that it can be.
    """

    text: str
    model: str
    usage: Usage


@dataclass(frozen=True)
class Failed:
    """A request that came to nothing, for a reason that is the request's own and not the endpoint's.

    Attributes:
        reason: one of `REASONS`.
        said: what the model or the endpoint said, shortened.
    """

    reason: str
    said: str


@dataclass(frozen=True)
class Structured:
    """A JSON object that fits its schema, and the reply that it stood in."""

    value: dict[str, Any]
    reply: Reply


@dataclass(frozen=True)
class Request:
    """One question to a model.

    Attributes:
        purpose: what the calls are counted by, such as "question" or "solution".
        messages: the chat.
        max_tokens: of the completion.
        temperature, top_p: of sampling.
        seed: of the whole run; None: none is sent. What is sent depends on `draw` and `attempt`, too.
        draw: number of this draw among the independent ones of the same chat.
        attempt: number of this try for a reply that can be read; whoever asks for JSON counts it.
        schema: JSON schema of the reply, an object; None: free text.
        schema_name: what the endpoint is told that the schema is called.
    """

    purpose: str
    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    draw: int = 0
    attempt: int = 0
    schema: Mapping[str, Any] | None = None
    schema_name: str = "reply"

    def key(self, model: str) -> str:
        """SHA-256 of all that the reply depends on, so that what was answered once is known again.

        The endpoint's address is no part of it, nor the purpose, nor whether the endpoint was sent the schema: an
        answer outlives a server that is moved or that learns to read schemas.
        """
        whole = {
            "model": model,
            "messages": [dict(one) for one in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            "seed": self.seed,
            "draw": self.draw,
            "attempt": self.attempt,
            "schema": self.schema,
            "schema_name": None if self.schema is None else self.schema_name,
        }
        return hashlib.sha256(_canonical(whole)).hexdigest()

    def options(self, with_schema: bool) -> dict[str, Any]:
        """The fields of a chat completion beside model and messages."""
        found: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.seed is not None:
            found["seed"] = draw_seed(self.seed, self.draw, self.attempt)
        if with_schema:
            schema = {"name": self.schema_name, "schema": self.schema, "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        return found

    def most(self) -> Usage:
        """What one try can take at most: no tokenizer makes more tokens of a text than it has bytes in UTF-8. [ours]"""
        around = CHAT_TOKENS + MESSAGE_TOKENS * len(self.messages)
        schema = 0 if self.schema is None else len(_canonical(self.schema))
        written = sum(len(one["content"].encode("utf-8", "replace")) for one in self.messages)
        return Usage(1, around + schema + written, self.max_tokens)


def draw_seed(seed: int, draw: int, attempt: int) -> int:
    """31 bits, since not every server takes more; draws and attempts of one seed have numbers of their own."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{draw}/{attempt}".encode()).digest()[:4], "big") >> 1


def _canonical(value: Any) -> bytes:
    """One text for equal values, in ASCII, so that half a surrogate pair is no obstacle."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
