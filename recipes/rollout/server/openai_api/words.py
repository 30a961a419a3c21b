"""Text to token ids and back, on a thread of its own: a long text must not stop the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from recipes.rollout.interface import FINISH_STOP, Response
from recipes.rollout.server.openai_api.errors import ApiError

T = TypeVar("T")
HALF = "�"
"""What a character decodes to whose bytes are not all there yet."""


@dataclass(frozen=True)
class Choice:
    """A response as text.

    Attributes:
        text: without the stop token, and cut before the first stop string.
        finish_reason: "stop" or "length".
        tokens: what each token adds to the text; empty where log-probs are not wanted. The last one may reach into the
            stop string.
        log_probs: of those tokens.
        generated: tokens that were generated, those that were cut off included.
    """

    text: str
    finish_reason: str
    tokens: tuple[str, ...]
    log_probs: tuple[float, ...]
    generated: int


class Words:
    """A model's tokenizer. Its methods run one after the other, because tokenizers take no two threads at once.

    Args:
        tokenizer: with a chat template.
        stop_ids: what ends a response, see `recipes.models.tokenizer.stop_ids`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]):
        self.stop_ids = tuple(stop_ids)
        self.vocabulary = len(tokenizer)
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="words")

    async def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text, with what this tokenizer puts around every text."""
        return await self._run(lambda: tuple(self._tokenizer(text)["input_ids"]))

    async def chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """Ids of a conversation, up to where the answer begins.

        Raises:
            ApiError: the model's chat template refuses the messages.
        """
        return await self._run(lambda: self._chat(messages))

    async def choice(self, response: Response, stop: Sequence[str], logprobs: bool) -> Choice:
        """A response as text."""
        return await self._run(lambda: self._choice(response, stop, logprobs))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise ApiError(400, f"messages: the model's chat template refuses them: {error}", "messages") from error
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _choice(self, response: Response, stop: Sequence[str], logprobs: bool) -> Choice:
        stopped = response.finish_reason == FINISH_STOP
        ids = response.token_ids[:-1] if stopped else response.token_ids
        text = self._decode(ids)
        places = [place for place in (text.find(one) for one in stop) if place >= 0]
        reason = FINISH_STOP if places else response.finish_reason
        end = min(places, default=len(text))
        tokens = pieces(self._decode, ids) if logprobs else []
        if places:
            tokens = _before(tokens, end)
        log_probs = response.log_probs[: len(tokens)]
        return Choice(text[:end], reason, tuple(tokens), tuple(log_probs), len(response.token_ids))

    def _decode(self, ids: Sequence[int]) -> str:
        # Spaces before punctuation stay: token by token they could not be taken out again.
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def pieces(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: "" while a character is not whole; together they are the text.

    Each is decoded with what stands before it, back to the last place where a character ended, because some tokenizers
    drop the blank at the start of a text.
    """
    found: list[str] = []
    start = seen = 0
    for end in range(1, len(ids) + 1):
        before, now = decode(ids[start:seen]), decode(ids[start:end])
        if now.endswith(HALF) and end < len(ids):
            found.append("")
            continue
        found.append(now[len(before) :])
        start, seen = seen, end
    return found


def _before(tokens: list[str], end: int) -> list[str]:
    """The tokens that begin before the character `end`."""
    kept, length = [], 0
    for token in tokens:
        if length >= end:
            break
        kept.append(token)
        length += len(token)
    return kept
