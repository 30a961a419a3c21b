"""An OpenAI-compatible endpoint's answers, many requests at a time."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai

from conf.evaluate import EvalConfig
from crossthink.errors import EXIT_RESUMABLE, ConfigError, UserError
from crossthink.secret import read_secret
from recipes.evaluation.answers import Answer, draw_number, never
from recipes.evaluation.questions import Asked
from recipes.rl.work import Work

POLL_S = 0.2
LOOK_S = 30.0
"""Seconds that the endpoint has to list its models."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Pause before the first try again, doubled with each, and the longest, which also bounds Retry-After."""
PASSING = (408, 409, 425, 429)
"""Refusals that may pass, like every 5xx."""
HERE = ("localhost", "127.0.0.1", "::1")


class EndpointLost(UserError):
    """The endpoint answered, and does no more. The evaluation stops, resumable; nothing was counted as wrong."""

    exit_code = EXIT_RESUMABLE


class EndpointAnswerer:
    """Implements `Answerer` on chat completions. Temperature 0 sends no seed; else every run of a question has its own.

    What a server that splits reasoning off sends apart (`reasoning_content`, `reasoning`) is joined again as
    `<think>…</think>` before the content, as the model wrote it and as the rules of the reward want it.
    """

    def __init__(self, config: EvalConfig) -> None:
        """Nothing is asked yet; `facts` asks first.

        Raises:
            ConfigError: `endpoint` is no address, or the file with the key is not there.
            UserError: the folder with the tokenizer holds none.
        """
        assert config.endpoint is not None
        self._config = config
        self._url = config.endpoint.rstrip("/")
        address = urlsplit(self._url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ConfigError(f"endpoint={config.endpoint} is no address. Give one such as http://127.0.0.1:8000/v1.")
        # A proxy from the environment is for the internet, not for this machine.
        self._trust_env = address.hostname not in HERE
        self._key = read_secret(config.request.token, "request.token") or "none"  # the client insists on some key
        self._tokenizer = _tokenizer(config.request.tokenizer)

    def __enter__(self) -> EndpointAnswerer:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is held between two calls."""

    def facts(self) -> dict[str, Any]:
        """See `Answerer.facts`. Asks the endpoint, so that a wrong address or key is known before anything starts.

        Raises:
            ConfigError: the model has to be named.
            UserError: the endpoint cannot be reached, or refuses.
        """
        return {"engine": "endpoint", "endpoint": self._url, "model": self._model}

    def prompt_tokens(self, asked: Asked) -> int | None:
        """See `Answerer.prompt_tokens`."""
        if self._tokenizer is None:
            return None
        text = self._tokenizer.apply_chat_template(asked.row.prompt, tokenize=False, add_generation_prompt=True)
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def answers(
        self, wanted: Sequence[tuple[Asked, int]], stopped: Callable[[], bool] = never
    ) -> Iterator[tuple[int, Answer]]:
        """See `Answerer.answers`."""
        if not wanted:
            return
        found: queue.SimpleQueue[tuple[int, Answer] | None] = queue.SimpleQueue()
        halt = threading.Event()
        work = Work(lambda: asyncio.run(self._ask_all(wanted, found.put, halt)), "endpoint")
        try:
            while True:
                if stopped():
                    halt.set()  # what has arrived is still handed on
                try:
                    one = found.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if one is None:
                    break
                yield one
        finally:
            halt.set()
            work.wait()
        if work.error is not None:
            raise work.error

    async def _ask_all(
        self, wanted: Sequence[tuple[Asked, int]], found: Callable[[Any], None], halt: threading.Event
    ) -> None:
        """Hand over every answer as it comes, and None at the end, however it ends."""
        waiting = iter(enumerate(wanted))

        async def ask_some(client: openai.AsyncOpenAI) -> None:
            for index, (asked, run) in waiting:
                found((index, await self._ask(client, asked, run)))

        async def until_halted() -> None:
            while not halt.is_set():
                await asyncio.sleep(POLL_S)

        try:
            async with self._client() as client:
                count = min(self._config.request.concurrency, len(wanted))
                asking = [asyncio.ensure_future(ask_some(client)) for _ in range(count)]
                together, halted = asyncio.gather(*asking), asyncio.ensure_future(until_halted())
                await asyncio.wait((together, halted), return_when=asyncio.FIRST_COMPLETED)
                for task in (*asking, halted):
                    task.cancel()
                over = await asyncio.gather(*asking, halted, return_exceptions=True)
                failures = [one for one in over if isinstance(one, Exception)]
                await asyncio.gather(together, return_exceptions=True)
                if failures:
                    raise failures[0]
        finally:
            found(None)

    def _client(self) -> openai.AsyncOpenAI:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        http = httpx.AsyncClient(limits=limits, trust_env=self._trust_env, timeout=self._config.request.deadline_s)
        return openai.AsyncOpenAI(base_url=self._url, api_key=self._key, max_retries=0, http_client=http)

    async def _ask(self, client: openai.AsyncOpenAI, asked: Asked, run: int) -> Answer:
        """One answer, in as many tries as there may be.

        Raises:
            UserError: refused for good.
            EndpointLost: all tries were in vain.
        """
        config, request = self._config, self._config.request
        more = {} if config.temperature == 0 else {"seed": draw_number(asked, config.seed, run)}
        failure, asked_to_wait = "", 0.0
        for attempt in range(request.retries + 1):
            if attempt:
                await asyncio.sleep(min(LONGEST_WAIT_S, max(FIRST_WAIT_S * 2 ** (attempt - 1), asked_to_wait)))
            try:
                asking = client.chat.completions.create(
                    model=self._model,
                    messages=asked.row.prompt,
                    max_tokens=config.max_response_tokens,
                    temperature=config.temperature,
                    top_p=config.top_p,
                    **more,
                )
                return self._answer(await asyncio.wait_for(asking, request.deadline_s))
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in PASSING:
                    raise self._refused(error) from error
                failure, asked_to_wait = _words(error), _retry_after(error)
            except openai.APIConnectionError as error:
                failure = f"{error} {error.__cause__ or ''}".strip()
            except asyncio.TimeoutError:
                failure = f"no answer within request.deadline_s={request.deadline_s:g}"
        raise EndpointLost(
            f"endpoint={self._url} did not answer in {request.retries + 1} tries. The last ended with: {failure}."
        )

    def _answer(self, reply: Any) -> Answer:
        try:
            choice = reply.choices[0]
            message, reason = choice.message, choice.finish_reason
        except (AttributeError, IndexError, TypeError) as error:
            raise UserError(
                f"endpoint={self._url} answered with something else than a chat completion: {str(reply)[:200]}."
            ) from error
        cut_off = reason == "length"
        text = _writable(joined(message.content or "", _reasoning(message), cut_off))
        tokens = reply.usage.completion_tokens if reply.usage else None
        if tokens is None and self._tokenizer is not None:
            tokens = len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return Answer(text, tokens, "length" if cut_off else "stop")

    @functools.cached_property
    def _model(self) -> str:
        """The model to ask for: as named, or the only one that the endpoint lists."""
        name = self._config.request.model
        timeout = min(LOOK_S, self._config.request.deadline_s)
        http = httpx.Client(trust_env=self._trust_env, timeout=timeout)
        with openai.OpenAI(base_url=self._url, api_key=self._key, max_retries=0, http_client=http) as client:
            try:
                listed = [one.id for one in client.models.list()]
            except openai.APIStatusError as error:
                if name is not None and error.status_code not in (401, 403):
                    return name  # not every server lists its models
                raise self._refused(error) from error
            except openai.APIConnectionError as error:
                why = f"{error} {error.__cause__ or ''}".strip()
                raise UserError(f"endpoint={self._url} cannot be reached: {why}. Is the server up?") from error
            except (AttributeError, TypeError, ValueError) as error:
                raise UserError(f"endpoint={self._url} answers, but not as OpenAI's API does: {error}.") from error
        if name is None and len(listed) != 1:
            raise ConfigError(
                f"endpoint={self._url} lists {len(listed)} models ({', '.join(listed[:10])}). Name one: request.model=."
            )
        return listed[0] if name is None else name

    def _refused(self, error: openai.APIStatusError) -> UserError:
        hint = " Give its key: request.token=@FILE." if error.status_code in (401, 403) else ""
        return UserError(f"endpoint={self._url} refused ({error.status_code}): {_words(error)}.{hint}")


def joined(content: str, reasoning: str, cut_off: bool) -> str:
    """Reasoning and answer as the model wrote them; where it was cut off while it reasoned, the block stays open."""
    if not reasoning or "</think>" in content:
        return content
    return f"<think>{reasoning}" if cut_off and not content else f"<think>{reasoning}</think>{content}"


def _writable(text: str) -> str:
    """JSON can hold half a surrogate pair, which no file in UTF-8 can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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


def _retry_after(error: openai.APIStatusError) -> float:
    try:
        return max(0.0, float(error.response.headers.get("retry-after", 0)))
    except ValueError:  # a date
        return 0.0


def _tokenizer(folder: str | None) -> Any:
    if folder is None:
        return None
    from recipes.models.tokenizer import load_tokenizer

    return load_tokenizer(Path(folder))
