"""NeMo-Aligner's reward model over PyTriton: tokens of prompt and response in, rewards out. The part without PyTriton.

Inputs are `tokens` int64 [B, S] and `sequence_lengths` int64 [B, 1] (prompt and response together, what follows is
padding), or `sentences` bytes [B, 1]; output is `rewards` float32 [B, 1]. (Shapes: NeMo-Aligner 0.7.0,
nemo_aligner/algorithms/reward_server.py, nemo_aligner/models/nlp/gpt/reward_critic_clients.py.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crossthink.errors import UserError
from reward_server.protocols.gold_book import GoldBook, UnknownPrompt
from reward_server.protocols.prompts import opens_thinking
from reward_server.protocols.questions import answered
from reward_server.protocols.rewards import to_numbers
from reward_server.protocols.tokenizer import Tokenizer
from reward_server.verdicts import Item, Verdict, show


class BadInput(UserError):
    """A request with other arrays than the protocol has."""


class Rewarder:
    """Answers requests.

    Args:
        book: the questions by prompt.
        tokenizer: that made the tokens.
        score: verdicts of items, in their order; called by one thread at a time.
        invalid_as: number that stands for an item that cannot be judged; None: such an item is an error.
    """

    def __init__(
        self,
        book: GoldBook,
        tokenizer: Tokenizer,
        score: Callable[[Sequence[Item]], Sequence[Verdict]],
        invalid_as: float | None = None,
    ):
        self._book, self._tokenizer, self._score, self._invalid_as = book, tokenizer, score, invalid_as
        self._lock = threading.Lock()

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """The rewards of a batch.

        Raises:
            BadInput: arrays are missing or of another shape. UnknownPrompt: a sequence begins with no known prompt.
            InvalidItems: items cannot be judged, and there is no `invalid_as`. All name the sequence.
        """
        if inputs.get("sentences") is not None:
            texts = sentences_to_texts(inputs["sentences"])
        else:
            texts = tokens_to_texts(inputs.get("tokens"), inputs.get("sequence_lengths"), self._tokenizer)
        items = texts_to_items(texts, self._book, self._tokenizer)
        with self._lock:
            verdicts = self._score(items)
        rewards = to_numbers(items, verdicts, self._invalid_as)
        return {"rewards": np.array(rewards, dtype=np.float32).reshape(-1, 1)}


def tokens_to_texts(tokens: Any, sequence_lengths: Any, tokenizer: Tokenizer) -> list[str]:
    """The text of every sequence, without its padding. Raises BadInput naming the array and what is allowed."""
    if tokens is None or sequence_lengths is None:
        raise BadInput("send tokens [B, S] with sequence_lengths [B, 1], or sentences [B, 1]")
    tokens, lengths = np.asarray(tokens), np.asarray(sequence_lengths)
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
        raise BadInput(f"tokens: shape {list(tokens.shape)} of {tokens.dtype}, expected [B, S] of int64")
    if lengths.shape not in ((len(tokens), 1), (len(tokens),)) or not np.issubdtype(lengths.dtype, np.integer):
        raise BadInput(
            f"sequence_lengths: shape {list(lengths.shape)} of {lengths.dtype}, expected [{len(tokens)}, 1] of int64"
        )
    lengths = lengths.reshape(-1)
    for index, length in enumerate(lengths):
        if not 0 < length <= tokens.shape[1]:
            raise BadInput(f"sequence_lengths[{index}]: {length} is not between 1 and {tokens.shape[1]}")
    return tokenizer.decode([row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)])


def sentences_to_texts(sentences: Any) -> list[str]:
    """The text of every entry. Raises BadInput naming the entry."""
    array = np.asarray(sentences)
    if array.ndim != 2 or array.shape[1] != 1:
        raise BadInput(f"sentences: shape {list(array.shape)}, expected [B, 1] of bytes")
    texts = []
    for index, value in enumerate(array[:, 0].tolist()):
        try:
            texts.append(value if isinstance(value, str) else bytes(value).decode("utf-8"))
        except (UnicodeDecodeError, TypeError) as error:
            raise BadInput(f"sentences[{index}]: {show(str(value)[:60])} is not UTF-8 text ({error})") from error
    return texts


def texts_to_items(texts: Sequence[str], book: GoldBook, tokenizer: Tokenizer) -> list[Item]:
    """The items of texts that hold prompt and response. Raises UnknownPrompt naming the sequence and its beginning."""
    return [_item(index, text, book, tokenizer) for index, text in enumerate(texts)]


def _item(index: int, text: str, book: GoldBook, tokenizer: Tokenizer) -> Item:
    try:
        prompt, question = _find(text, book, tokenizer)
    except UnknownPrompt as error:
        raise UnknownPrompt(
            f"sequence {index}: {error}. Does pytriton.data hold the trainer's rows, and are they rendered alike?"
        ) from error
    response = tokenizer.without_special(text[len(prompt) :])
    prefilled = question.think_prefilled or opens_thinking(prompt)
    return answered(question, f"sequence {index}", response, think_prefilled=prefilled)


def _find(text: str, book: GoldBook, tokenizer: Tokenizer) -> tuple[str, Item]:
    try:
        return book.find(text)
    except UnknownPrompt:
        # Some trainers put the start token before a prompt that is rendered without it.
        if not tokenizer.start or not text.startswith(tokenizer.start):
            raise
        prompt, question = book.find(text[len(tokenizer.start) :])
        return tokenizer.start + prompt, question
