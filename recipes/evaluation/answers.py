"""What answers questions, behind one interface: a checkpoint on the local engine, or an endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recipes.evaluation.questions import Asked


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: special tokens removed, everything else untouched.
        tokens: its length, stop token included; None where nobody counted.
        finish_reason: "stop" or "length".
        reasoned: the text begins with a `<think>` of its own, whatever the prompt ends in.
    """

    text: str
    tokens: int | None
    finish_reason: str
    reasoned: bool = False


def never() -> bool:
    """Nobody wants to stop."""
    return False


class Answerer(Protocol):
    """A model that answers questions."""

    def facts(self) -> dict[str, Any]:
        """What answers. An evaluation that goes on must find the same; `endpoint`, its address, may be another."""
        ...

    def prompt_tokens(self, asked: Asked) -> int | None:
        """Length of the question's prompt; None where this side has no tokenizer."""
        ...

    def answers(
        self, wanted: Sequence[tuple[Asked, int]], stopped: Callable[[], bool] = never
    ) -> Iterator[tuple[int, Answer]]:
        """(index, answer) as they finish.

        Args:
            wanted: questions, each with the number of its run.
            stopped: asked again and again; once it is true the iterator ends without the rest.

        Raises:
            UserError: the model cannot be asked; with exit code 75 where it could be until now.
        """
        ...


def draw_number(asked: Asked, *more: int) -> int:
    """31 bits of a question, and of `more`: its draws depend on no other question, nor on what was answered before."""
    words = "/".join([asked.benchmark, asked.row.id, *map(str, more)])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") >> 1
