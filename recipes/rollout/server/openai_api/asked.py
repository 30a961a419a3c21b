"""What a body of `/v1/completions` or `/v1/chat/completions` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recipes.rollout.server.bodies import BIGGEST
from recipes.rollout.server.openai_api.errors import ApiError, no_such_model
from recipes.rollout.server.openai_api.fields import Fields, is_text
from reward_server.verdicts import show

MOST_CHOICES = 128
"""Of `n`, as OpenAI has it."""
COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that states none, as OpenAI has it. A chat gets what is left of the sequence."""
MESSAGE = ("role", "content", "name")


@dataclass(frozen=True)
class Asked:
    """One request, checked but for what the tokenizer will say.

    Attributes:
        prompts: texts or token ids; one list of messages for a chat.
        n: choices of each prompt.
        temperature, top_p: how to draw.
        max_tokens: None: `usual_tokens`, or what is left of the sequence.
        seed: None: another draw each time.
        stop: strings, none of which a text holds.
        logprobs: log-probs of the tokens are wanted.
        stream: events instead of one reply.
        include_usage: the stream ends with an event that counts tokens.
    """

    prompts: tuple[Any, ...]
    n: int
    temperature: float
    top_p: float
    max_tokens: int | None
    usual_tokens: int
    seed: int | None
    stop: tuple[str, ...]
    logprobs: bool
    stream: bool
    include_usage: bool


def read_completion(body: Mapping[str, Any], model: str) -> Asked:
    """A body of `/v1/completions`. Raises ApiError naming the parameter."""
    fields = Fields(body)
    prompts = _prompts(fields.take("prompt"))
    logprobs = fields.take("logprobs")
    if logprobs is not None and (type(logprobs) is not int or logprobs != 0):
        raise ApiError(
            400,
            f"logprobs: {show(logprobs)} is not supported here; 0 gives the log-probs of the tokens of the text, "
            "and there are none of other tokens",
            "logprobs",
        )
    for name, neutral in (("echo", False), ("best_of", body.get("n") or 1), ("suffix", "")):
        fields.only(name, neutral)
    max_tokens = fields.whole("max_tokens", None, 1, BIGGEST)
    return _common(fields, model, prompts, max_tokens, COMPLETION_TOKENS, logprobs is not None)


def read_chat(body: Mapping[str, Any], model: str) -> Asked:
    """A body of `/v1/chat/completions`. Raises ApiError naming the parameter."""
    fields = Fields(body)
    messages = _messages(fields.take("messages"))
    logprobs = fields.flag("logprobs")
    fields.only("top_logprobs", 0)
    fields.only("response_format", {"type": "text"})
    fields.only("tools", [])
    fields.only("tool_choice", "none")
    fields.only("modalities", ["text"])
    fields.only("store", False)
    older = fields.whole("max_tokens", None, 1, BIGGEST)
    newer = fields.whole("max_completion_tokens", older, 1, BIGGEST)
    return _common(fields, model, (messages,), newer, BIGGEST, logprobs)


def _common(
    fields: Fields, model: str, prompts: tuple[Any, ...], max_tokens: int | None, usual_tokens: int, logprobs: bool
) -> Asked:
    wanted = fields.take("model", model)
    if wanted != model:
        raise no_such_model(wanted, model)
    fields.only("presence_penalty", 0, 0.0)
    fields.only("frequency_penalty", 0, 0.0)
    fields.only("logit_bias", {})
    fields.take("user")  # who asks changes nothing
    stream = fields.flag("stream")
    asked = Asked(
        prompts=prompts,
        n=fields.whole("n", 1, 1, MOST_CHOICES),
        temperature=fields.temperature(),
        top_p=fields.top_p(),
        max_tokens=max_tokens,
        usual_tokens=usual_tokens,
        seed=fields.whole("seed", None, 0, BIGGEST),
        stop=fields.stop(),
        logprobs=logprobs,
        stream=stream,
        include_usage=_include_usage(fields.take("stream_options"), stream),
    )
    fields.end()
    return asked


def _include_usage(options: Any, stream: bool) -> bool:
    if options is None:
        return False
    if not stream or not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool):
        detail = f'stream_options: {show(options)} is not {{"include_usage": true or false}} beside stream=true'
        raise ApiError(400, detail, "stream_options")
    if unknown := sorted(options.keys() - {"include_usage"}):
        name = f"stream_options.{unknown[0]}"
        raise ApiError(400, f"{show(name)}: unknown or unsupported parameter", name, "unknown_parameter")
    return bool(options.get("include_usage"))


def _prompts(value: Any) -> tuple[Any, ...]:
    """Texts, or tuples of token ids."""
    many = value if isinstance(value, list) and value and not _is_ids(value) else [value]
    if not all(is_text(one) or _is_ids(one) for one in many):
        raise ApiError(
            400,
            f"prompt: {show(value)} is no text, list of texts, list of token ids, or list of such lists",
            "prompt",
        )
    return tuple(one if isinstance(one, str) else tuple(one) for one in many)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int}


def _messages(value: Any) -> tuple[dict[str, str], ...]:
    """Messages with plain text, as a chat template takes them."""
    if not isinstance(value, list) or not value:
        raise ApiError(400, f"messages: {show(value)} is no list of at least one message", "messages")
    found = []
    for index, message in enumerate(value):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or not is_text(message.get("role")):
            raise ApiError(400, f"{where}: {show(message)} is no object with role and content", where)
        if unknown := sorted(message.keys() - set(MESSAGE)):
            raise ApiError(400, f"{where}.{unknown[0]}: unsupported; allowed are {', '.join(MESSAGE)}", where)
        found.append({"role": message["role"], "content": _text(message.get("content"), f"{where}.content")})
    return tuple(found)


def _text(content: Any, where: str) -> str:
    """Text, or text in parts."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not is_text(part.get("text")):
            raise ApiError(400, f"{where}: {show(content)} is no text, nor a list of parts of type text", where)
    return "".join(part["text"] for part in parts)
