"""One OpenAI-compatible endpoint: its address, key and model, and one chat completion with the tries it may take."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import openai

from crossthink.errors import EXIT_RESUMABLE, ConfigError, UserError
from crossthink.secret import read_secret

T = TypeVar("T")

LOOK_S = 30.0
"""Seconds that the endpoint has to list its models."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Pause before the first try again, doubled with each, and the longest, which also bounds Retry-After."""
PASSING = (408, 409, 425, 429)
"""Refusals that may pass, like every 5xx."""
HERE = ("localhost", "127.0.0.1", "::1")
TEXT_PARTS = ("text", "output_text")
"""Parts of a message that are its text; any other, such as reasoning, is not taken for the answer."""


class EndpointLost(UserError):
    """The endpoint answered, and does no more. Whoever asked stops, resumable; nothing was counted as wrong."""

    exit_code = EXIT_RESUMABLE


class EndpointLate(EndpointLost):
    """Every try of one request passed its deadline."""


class EndpointGarbled(Exception):
    """A reply that cannot be decoded, such as JSON that was cut off on its way. `Endpoint.tries` asks again."""


class EndpointRefused(UserError):
    """The endpoint refused for good.

    Attributes:
        status: the HTTP status.
        said: the endpoint's words.
    """

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said


@dataclass(frozen=True)
class Access:
    """How an endpoint is reached, and what messages call these settings.

    Attributes:
        url: base address, such as http://127.0.0.1:8000/v1.
        model: name in requests; None: the only one that the endpoint lists.
        token: API key, or @FILE that holds it.
        deadline_s: seconds for one try of one request.
        retries: tries after the first where the endpoint is full, fails, is gone or is late.
        name: the key of the address.
        group: the group of the other keys.
    """

    url: str
    model: str | None
    token: str | None
    deadline_s: float
    retries: int
    name: str = "endpoint"
    group: str = "request"


@dataclass(frozen=True)
class Said:
    """One chat completion.

    Attributes:
        text: as the model wrote it: reasoning that the server split off (`reasoning_content`, `reasoning`) is joined
            again as `<think>…</think>` before the content.
        finish_reason: the server's word: "stop", "length", "content_filter" and others.
        refusal: what the model said instead of an answer, or the empty string.
        prompt_tokens, completion_tokens: None where the server does not count.
        reasoned: the `<think>` in `text` is the one put there by joining: the model did not write it after the prompt.
    """

    text: str
    finish_reason: str | None
    refusal: str
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoned: bool = False


class Endpoint:
    """An OpenAI-compatible endpoint. Inside its block, `tries` around `once` is one request."""

    def __init__(self, access: Access) -> None:
        """Nothing is asked yet.

        Raises:
            ConfigError: the address is none, or the file with the key is not there.
        """
        self.access = access
        self.url = access.url.rstrip("/")
        self.label = f"{access.name}={self.url}"
        # A proxy from the environment is for the internet, not for this machine.
        self._trust_env = _host(access) not in HERE
        # The client insists on some key.
        self._key = read_secret(access.token, f"{access.group}.token") or "none"
        self._client: openai.AsyncOpenAI | None = None

    @functools.cached_property
    def model(self) -> str:
        """The model to ask for: as named, or the only one that the endpoint lists. Asks the endpoint, in any case.

        Raises:
            ConfigError: the model has to be named.
            UserError: the endpoint cannot be reached, or refuses.
        """
        name = self.access.model
        http = httpx.Client(trust_env=self._trust_env, timeout=min(LOOK_S, self.access.deadline_s))
        with openai.OpenAI(base_url=self.url, api_key=self._key, max_retries=0, http_client=http) as client:
            try:
                listed = [one.id for one in client.models.list()]
            except openai.APIStatusError as error:
                if name is not None and error.status_code not in (401, 403):
                    return name  # not every server lists its models
                raise self._refused(error) from error
            except openai.APIConnectionError as error:
                raise UserError(f"{self.label} cannot be reached: {_cause(error)}. Is the server up?") from error
            except (AttributeError, TypeError, ValueError) as error:
                raise UserError(f"{self.label} answers, but not as OpenAI's API does: {error}.") from error
        if name is None and len(listed) != 1:
            raise ConfigError(
                f"{self.label} lists {len(listed)} models ({', '.join(listed[:10])}). "
                f"Name one: {self.access.group}.model=."
            )
        return listed[0] if name is None else name

    async def __aenter__(self) -> Endpoint:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        http = httpx.AsyncClient(limits=limits, trust_env=self._trust_env, timeout=self.access.deadline_s)
        self._client = openai.AsyncOpenAI(base_url=self.url, api_key=self._key, max_retries=0, http_client=http)
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._client is not None
        await self._client.close()
        self._client = None

    async def once(self, model: str, messages: Sequence[Mapping[str, str]], **more: Any) -> Said:
        """One try.

        Args:
            model: to ask for.
            messages: the chat so far.
            more: of the request: max_tokens, temperature and so on.

        Raises:
            asyncio.TimeoutError: no answer within the deadline.
            EndpointGarbled, openai.APIError: any other failure that `tries` knows how to take.
            UserError: it answered with something else than a chat completion.
        """
        assert self._client is not None
        asking = self._client.chat.completions.create(model=model, messages=list(messages), **more)
        return self._said(await self._reply(asking))

    async def vectors(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """One try of /v1/embeddings: a vector for each text, in their order.

        Raises:
            As `once`; UserError where it answered with something else than a vector for each text.
        """
        assert self._client is not None
        # Not every server knows base64, which the client asks for by itself.
        reply = await self._reply(
            self._client.embeddings.create(model=model, input=list(texts), encoding_format="float")
        )
        try:
            found = [[float(x) for x in one.embedding] for one in sorted(reply.data, key=lambda one: one.index)]
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{self.label} answered with something else than vectors: {str(reply)[:200]}.") from error
        if len(found) != len(texts):
            raise UserError(f"{self.label} gave {len(found)} vectors for {len(texts)} texts.")
        return found

    async def tries(self, once: Callable[[], Awaitable[T]]) -> T:
        """What one request comes to, in as many tries as there may be.

        Args:
            once: does one try; called again where the last one's failure may pass.

        Raises:
            EndpointRefused: refused for good.
            EndpointLate: all tries passed their deadline.
            EndpointLost: all tries were in vain.
        """
        failure, asked_to_wait, late = "", 0.0, 0
        for attempt in range(self.access.retries + 1):
            if attempt:
                await asyncio.sleep(min(LONGEST_WAIT_S, max(FIRST_WAIT_S * 2 ** (attempt - 1), asked_to_wait)))
            try:
                return await once()
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in PASSING:
                    raise self._refused(error) from error
                failure, asked_to_wait = _words(error), _retry_after(error)
            except asyncio.TimeoutError:
                failure, late = f"no answer within {self.access.group}.deadline_s={self.access.deadline_s:g}", late + 1
            except openai.APIConnectionError as error:
                failure = _cause(error)
            except EndpointGarbled as error:
                failure = str(error)
        tries = self.access.retries + 1
        kind = EndpointLate if late == tries else EndpointLost
        raise kind(f"{self.label} did not answer in {tries} tries. The last ended with: {failure}.")

    async def _reply(self, asking: Awaitable[T]) -> T:
        """What the client makes of the answer, within the deadline."""
        try:
            return await asyncio.wait_for(asking, self.access.deadline_s)
        except openai.APITimeoutError as error:
            raise asyncio.TimeoutError from error
        except ValueError as error:  # the client takes what calls itself JSON for JSON
            raise EndpointGarbled(f"a reply that cannot be decoded ({error})") from error

    def _said(self, reply: Any) -> Said:
        try:
            choice = reply.choices[0]
            message, reason = choice.message, choice.finish_reason
            content, refusal = _content(message), getattr(message, "refusal", None) or ""
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.label} answered with something else than a chat completion: {str(reply)[:200]}."
            ) from error
        text = joined(content, _reasoning(message), cut_off=reason == "length")
        usage = getattr(reply, "usage", None)
        prompt_tokens, completion_tokens = (getattr(usage, f"{side}_tokens", None) for side in ("prompt", "completion"))
        return Said(
            writable(text), reason, writable(str(refusal)), prompt_tokens, completion_tokens, reasoned=text != content
        )

    def _refused(self, error: openai.APIStatusError) -> EndpointRefused:
        hint = f" Give its key: {self.access.group}.token=@FILE." if error.status_code in (401, 403) else ""
        if error.status_code == 404:
            hint = f" Is it the base address, which mostly ends in /v1, and {self.access.group}.model= the right name?"
        words = _words(error)
        return EndpointRefused(f"{self.label} refused ({error.status_code}): {words}.{hint}", error.status_code, words)


def joined(content: str, reasoning: str, cut_off: bool) -> str:
    """Reasoning and answer as the model wrote them; where it was cut off while it reasoned, the block stays open."""
    if not reasoning or "</think>" in content:
        return content
    return f"<think>{reasoning}" if cut_off and not content else f"<think>{reasoning}</think>{content}"


def writable(text: str) -> str:
    """The text with half surrogate pairs replaced: JSON can hold them, and no file in UTF-8 can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _host(access: Access) -> str:
    """The host of the address.

    Raises:
        ConfigError: it is no address.
    """
    try:
        address = urlsplit(access.url)
        httpx.URL(access.url)  # refuses more, such as a port that is no number
    except (ValueError, httpx.InvalidURL):
        address = None
    if address is None or address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(f"{access.name}={access.url} is no address. Give one such as http://127.0.0.1:8000/v1.")
    return address.hostname


def _content(message: Any) -> str:
    """The text of a message; some servers send it as a list of parts. Raises KeyError or TypeError where it is none."""
    content = message.content or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or any(part["type"] not in TEXT_PARTS for part in parts):
        raise TypeError(f"content is no text: {content!r}")
    return "".join(part["text"] for part in parts)


def _reasoning(message: Any) -> str:
    """What the server sent apart; vLLM's later versions say `reasoning`."""
    for name in ("reasoning_content", "reasoning"):
        value = getattr(message, name, None)
        if isinstance(value, str) and value:
            return value
    return ""


def _words(error: openai.APIStatusError) -> str:
    """What the endpoint said, on one line."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return " ".join(str(said or error.message).split())[:500].rstrip(".")


def _cause(error: openai.APIConnectionError) -> str:
    return f"{error} {error.__cause__ or ''}".strip()


def _retry_after(error: openai.APIStatusError) -> float:
    try:
        return max(0.0, float(error.response.headers.get("retry-after", 0)))
    except ValueError:  # a date
        return 0.0
