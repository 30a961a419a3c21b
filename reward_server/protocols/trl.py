"""TRL's reward function: `GRPOTrainer(reward_funcs=CrossThinkReward(), ...)` on the rows of our TRL export.

TRL calls it once a step with parallel lists, one entry a completion: prompts, completions, their token ids, and every
further column of the dataset by name. None is an item that does not count: TRL from 1.6 on leaves it out of the group's
mean and gives it no advantage; before, it counted as 0. (Shapes: trl 1.16.0, trl/trainer/grpo_trainer.py.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from crossthink.errors import UserError
from reward_server.protocols import judges
from reward_server.protocols.questions import FIELDS, answered, read_question
from reward_server.verdicts import Item, Verdict, show

THOUGHTS = ("reasoning_content", "thinking")
"""Fields into which TRL parses what stood between the think tags, for tokenizers that say how to parse a response."""


class BadColumns(UserError):
    """The dataset lacks a column that the reward needs, or holds something else in it."""


class CrossThinkReward:
    """R = R_acc ∧ R_format of every completion, by the rules of the reward server. Can be pickled.

    Args:
        url: a reward server, or several that judge alike; None: judged in this process and its workers.
        token: the servers' shared secret.
        match: rule of the judge in this process, "equivalent" or "exact".
        think_prefilled: the chat template ends the prompt in `<think>`, so completions start inside it.
        stop_ids: tokens that end a completion. Where given, a completion that ends in none of them counts as cut off
            by the length limit; TRL passes no finish reason, and without this none is assumed.

    Raises:
        ValueError: an unknown `match`, or one together with `url`.
    """

    def __init__(
        self,
        url: str | Iterable[str] | None = None,
        token: str | None = None,
        match: str = "equivalent",
        *,
        think_prefilled: bool = False,
        stop_ids: Collection[int] | None = None,
    ):
        self.url = None if url is None else judges.addresses(url)
        self.token, self.match = token, match
        self.think_prefilled = think_prefilled
        self.stop_ids = None if stop_ids is None else frozenset(stop_ids)
        judges.check_choice(self.url, match)
        self.__name__ = "crossthink"  # under which TRL logs it

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """A reward a completion; None for an item that cannot be judged.

        Args:
            prompts: not looked at.
            completions: strings, or lists of messages.
            completion_ids: their tokens, for `stop_ids` and for the length.
            log_extra: TRL's, called with the statuses and the extracted answers.
            log_metric: TRL's, called with the means of accuracy and format over the valid items, and with their share.
            **columns: `kind`, `ground_truth` and, for multiple choice, `options`; `source` and `id` where there.

        Raises:
            BadColumns: a column is missing or damaged; names the row, the column and what is allowed.
            RewardUnavailable, RewardRefused: as the client says.
        """
        items = [
            self._item(index, completion, None if completion_ids is None else completion_ids[index], columns)
            for index, completion in enumerate(completions)
        ]
        verdicts = judges.score(items, self.url, self.token, self.match)
        if log_extra is not None:
            log_extra("status", [verdict.status for verdict in verdicts])
            log_extra("extracted", [verdict.extracted for verdict in verdicts])
        if log_metric is not None:
            _log_means(log_metric, verdicts)
        return [verdict.reward for verdict in verdicts]

    def _item(self, index: int, completion: Any, ids: Sequence[int] | None, columns: Mapping[str, Any]) -> Item:
        row = {}
        for name in FIELDS[:4]:
            if columns.get(name) is not None:
                row[name] = columns[name][index]
            elif name in ("kind", "ground_truth"):
                raise BadColumns(f"the dataset has no column {name}; `crossthink prep export=[trl]` writes it")
        try:
            question = read_question(row)
            text, reasoned = read_completion(completion)
        except ValueError as error:
            raise BadColumns(f"completion {index} of the batch{_id(columns, index)}: {error}") from error
        cut = self.stop_ids is not None and ids is not None and (not len(ids) or int(ids[-1]) not in self.stop_ids)
        return answered(
            question,
            str(index),
            text,
            finish_reason="length" if cut else None,
            think_prefilled=self.think_prefilled and not reasoned,
            response_tokens=None if ids is None else len(ids),
        )


def read_completion(completion: Any) -> tuple[str, bool]:
    """What the model wrote, and whether its reasoning came apart from it, here put back between its tags.

    Args:
        completion: a string, or messages, of which the assistant's count.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(completion, str):
        return completion, False
    if not isinstance(completion, Sequence) or not all(isinstance(message, Mapping) for message in completion):
        raise ValueError(f"completions: {show(completion)} is neither a string nor a list of messages")
    parts: list[str] = []
    reasoned = False
    for message in completion:
        if message.get("role") == "assistant":
            thoughts = [message[name] for name in THOUGHTS if message.get(name)]
            parts += [f"<think>{thought}</think>" for thought in thoughts]
            parts.append(_content(message.get("content")))
            reasoned = reasoned or bool(thoughts)
    return "".join(parts), reasoned


def _content(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        return "".join(part.get("text") or "" for part in content)
    raise ValueError(f"completions: the content {show(content)} is neither a string nor a list of parts")


def _log_means(log_metric: Callable[[str, float], None], verdicts: Sequence[Verdict]) -> None:
    if not verdicts:
        return
    log_metric("crossthink/invalid", sum(not verdict.is_valid for verdict in verdicts) / len(verdicts))
    valid = [verdict for verdict in verdicts if verdict.is_valid]
    if valid:
        log_metric("crossthink/accuracy", sum(verdict.accuracy or 0 for verdict in valid) / len(valid))
        log_metric("crossthink/format", sum(verdict.format for verdict in valid) / len(valid))


def _id(columns: Mapping[str, Any], index: int) -> str:
    return f" (row {columns['id'][index]})" if columns.get("id") is not None else ""
