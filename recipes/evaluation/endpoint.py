"""An OpenAI-compatible endpoint's answers, many requests at a time."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conf.evaluate import EvalConfig
from crossthink.endpoint import Access, Endpoint
from recipes.evaluation.answers import Answer, draw_number, never
from recipes.evaluation.questions import Asked
from recipes.work import Work

POLL_S = 0.2


class EndpointAnswerer:
    """Implements `Answerer` on chat completions. Temperature 0 sends no seed; else every run of a question has its own.

    An endpoint that answers no more ends the evaluation, resumable (`EndpointLost`). Reasoning that a server splits
    off is joined again, as the rules of the reward want it (`Said`).
    """

    def __init__(self, config: EvalConfig) -> None:
        """Nothing is asked yet; `facts` asks first.

        Raises:
            ConfigError: `endpoint` is no address, or the file with the key is not there.
            UserError: the folder with the tokenizer holds none.
        """
        assert config.endpoint is not None
        self._config, request = config, config.request
        access = Access(config.endpoint, request.model, request.token, request.deadline_s, request.retries)
        self._endpoint = Endpoint(access)
        self._tokenizer = _tokenizer(request.tokenizer)

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
        return {"engine": "endpoint", "endpoint": self._endpoint.url, "model": self._endpoint.model}

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

        async def ask_some() -> None:
            for index, (asked, run) in waiting:
                found((index, await self._ask(asked, run)))

        async def until_halted() -> None:
            while not halt.is_set():
                await asyncio.sleep(POLL_S)

        try:
            async with self._endpoint:
                count = min(self._config.request.concurrency, len(wanted))
                asking = [asyncio.ensure_future(ask_some()) for _ in range(count)]
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

    async def _ask(self, asked: Asked, run: int) -> Answer:
        """One answer, in as many tries as there may be.

        Raises:
            UserError: refused for good.
            EndpointLost: all tries were in vain.
        """
        config, endpoint = self._config, self._endpoint
        more: dict[str, Any] = {
            "max_tokens": config.max_response_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
        }
        if config.temperature != 0:
            more["seed"] = draw_number(asked, config.seed, run)
        said = await endpoint.tries(lambda: endpoint.once(endpoint.model, asked.row.prompt, **more))
        tokens = said.completion_tokens
        if tokens is None and self._tokenizer is not None:
            tokens = len(self._tokenizer(said.text, add_special_tokens=False)["input_ids"])
        return Answer(said.text, tokens, "length" if said.finish_reason == "length" else "stop", said.reasoned)


def _tokenizer(folder: str | None) -> Any:
    if folder is None:
        return None
    from recipes.models.tokenizer import load_tokenizer

    return load_tokenizer(Path(folder))
