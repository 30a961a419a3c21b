"""Answers judged and recorded in a thread, while others are still given."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any

from recipes.evaluation.answers import Answer
from recipes.evaluation.questions import Asked
from recipes.evaluation.record import Record
from recipes.rl.loose_answer import in_right_form, loose_answer
from recipes.work import Work
from reward_server.client import RewardClient
from reward_server.verdicts import Item, Verdict

MOST_AT_ONCE = 64
"""Answers in one request to the judge. So many are lost at most where the process is killed."""
MOST_WAITING = 4096
"""Answers that wait for the judge before no more are taken."""
Given = tuple[Asked, int, Answer]


class Judging:
    """Has answers judged and writes them into the record, whatever came meanwhile in one request.

    Leaving the block waits until everything that was added is in the record, also where the block failed.
    """

    def __init__(
        self, client: RewardClient, record: Record, think_prefilled: bool, shown: Callable[[int], None]
    ) -> None:
        """Begin.

        Args:
            client: of the reward server.
            record: where judged answers go.
            think_prefilled: the prompt already ends in `<think>`; an answer that `reasoned` is judged without.
            shown: called with the number of answers in the record, whenever it grows.
        """
        self._client, self._record, self._shown = client, record, shown
        self._think_prefilled = think_prefilled
        self._waiting: queue.Queue[Given | None] = queue.Queue(MOST_WAITING)
        self._work = Work(self._run, "judging")

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._put(None)
        self._work.wait()
        if kind is None and self._work.error is not None:
            raise self._work.error

    def add(self, asked: Asked, run: int, answer: Answer) -> None:
        """Have this judged.

        Raises:
            UserError: the judge could not be asked for earlier ones, or the record not be written.
        """
        self._put((asked, run, answer))
        if self._work.error is not None:
            raise self._work.error

    def _put(self, one: Given | None) -> None:
        while self._work.is_running():
            try:
                return self._waiting.put(one, timeout=0.5)
            except queue.Full:
                continue

    def _run(self) -> None:
        over = False
        while not over:
            given = [self._waiting.get()]
            while len(given) < MOST_AT_ONCE and not self._waiting.empty():
                given.append(self._waiting.get())
            over = None in given
            answers = [one for one in given if one is not None]
            if answers:
                self._record.add(judged(self._client, answers, self._think_prefilled))
                self._shown(len(self._record.done))


def judged(client: RewardClient, given: Sequence[Given], think_prefilled: bool) -> list[dict[str, Any]]:
    """Lines of samples.jsonl for some answers.

    Every answer is judged twice by the same rules: as it is, and its bare answer put into the form that they ask for.
    """
    items = []
    for number, (asked, _, answer) in enumerate(given):
        loose = Answer(in_right_form(loose_answer(answer.text, asked.row.kind)), None, answer.finish_reason)
        prefilled = think_prefilled and not answer.reasoned
        items += [_item(f"{number}", asked, answer, prefilled), _item(f"{number}.loose", asked, loose, False)]
    verdicts = iter(client.score(items))
    return [sample(asked, run, answer, next(verdicts), next(verdicts)) for asked, run, answer in given]


def sample(asked: Asked, run: int, answer: Answer, verdict: Verdict, loose: Verdict) -> dict[str, Any]:
    """A line of samples.jsonl. The texts of a private question are left out, except for what the model wrote."""
    row = asked.row
    hidden = asked.private
    return {
        "benchmark": asked.benchmark,
        "id": row.id,
        "run": run,
        "source": row.source,
        "domain": row.domain,
        "kind": row.kind,
        "groups": dict(asked.groups),
        "private": asked.private,
        "question": None if hidden else row.question,
        "options": None if hidden else row.options,
        "ground_truth": None if hidden else list(row.ground_truth),
        "response": answer.text,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
        "verdict": {name: getattr(verdict, name) for name in ("reward", "accuracy", "format", "extracted", "status")},
        "answer_accuracy": None if loose.accuracy is None else float(loose.accuracy),
    }


def _item(ident: str, asked: Asked, answer: Answer, think_prefilled: bool) -> Item:
    row = asked.row
    return Item(
        id=ident,
        kind=row.kind,
        response=answer.text,
        ground_truth=tuple(row.ground_truth),
        options=tuple(row.options.items()) if row.options else None,
        finish_reason=answer.finish_reason,
        think_prefilled=think_prefilled,
        source=row.source,
        response_tokens=answer.tokens,
    )
