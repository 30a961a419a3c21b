"""One evaluation, from its questions to its two files; it goes on where an earlier start has ended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.evaluate import EvalConfig
from crossthink.errors import EXIT_RESUMABLE, StoppedEarly, UserError
from crossthink.files import atomic_file, write_json
from recipes.evaluation.answers import Answerer
from recipes.evaluation.judging import Judging
from recipes.evaluation.questions import Asked, QuestionSet
from recipes.evaluation.record import Record
from recipes.evaluation.summary import summarise
from recipes.run_files import SAMPLES, SUMMARY
from reward_server.client import RewardClient

PROTOCOL = ("runs", "temperature", "top_p", "max_prompt_tokens", "max_response_tokens")
Shown = Callable[[int, int], None]
"""Called with the answers that are there and those that are wanted."""


@dataclass(frozen=True)
class Fitting:
    """The questions whose prompts are short enough, and how many are not, by benchmark."""

    asked: tuple[Asked, ...]
    too_long: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """What summary.json says of those left out."""
        return {"too_long": sum(self.too_long.values()), "too_long_by_benchmark": self.too_long}


def fitting(asked: Sequence[Asked], answerer: Answerer, max_prompt_tokens: int) -> Fitting:
    """Leave out the questions whose prompts are too long. Where nobody can count, the endpoint decides.

    Raises:
        UserError: nothing is left.
    """
    kept, too_long = [], Counter[str]()
    for one in asked:
        tokens = answerer.prompt_tokens(one)
        if tokens is None or tokens <= max_prompt_tokens:
            kept.append(one)
        else:
            too_long[one.benchmark] += 1
    if not kept:
        raise UserError(f"No question has a prompt within max_prompt_tokens={max_prompt_tokens}. Raise it.")
    return Fitting(tuple(kept), dict(too_long))


def protocol(config: EvalConfig) -> dict[str, Any]:
    """What must be equal for two evaluations to be compared, the questions and the rules aside."""
    facts = {name: getattr(config, name) for name in PROTOCOL}
    return facts | {"think_prefilled": config.reward.think_prefilled}


def identity(config: EvalConfig, questions: QuestionSet, answerer: Answerer | None) -> dict[str, Any]:
    """What identity.json holds, the reward server's rules aside; without an answerer it is left out."""
    who = {} if answerer is None else {"answerer": answerer.facts()}
    return {"questions": questions.sha256, "protocol": protocol(config), **who}


def evaluate(
    out: Path,
    config: EvalConfig,
    fit: Fitting,
    answerer: Answerer,
    client: RewardClient,
    facts: Mapping[str, Any],
    stopped: Callable[[], bool],
    shown: Shown,
) -> dict[str, Any]:
    """Answer, judge and record what is not recorded yet; then write samples.jsonl and summary.json.

    Args:
        out: folder of the evaluation; exists, and is this one's.
        config: of the evaluation.
        fit: what is asked.
        answerer: who is asked.
        client: of the reward server.
        facts: what summary.json says of what was measured.
        stopped: whether somebody wants to stop.
        shown: told how far it is.

    Returns:
        The contents of summary.json.

    Raises:
        StoppedEarly: stopped, or no server left: everything that was answered is kept.
        UserError: a server refuses; the same.
    """
    pairs = [(asked, run) for asked in fit.asked for run in range(config.runs)]
    order = [(asked.benchmark, asked.row.id, run) for asked, run in pairs]
    with Record(out) as record:
        wanted = [pair for pair, key in zip(pairs, order, strict=True) if key not in record.done]
        shown(len(record.done), len(order))
        try:
            _answer(wanted, record, config, answerer, client, stopped, lambda done: shown(done, len(order)))
        except UserError as error:
            if error.exit_code != EXIT_RESUMABLE:
                raise
            raise StoppedEarly(f"{error} {_kept(out, record, order)}") from error
        if any(key not in record.done for key in order):
            raise StoppedEarly(f"stopped: {_kept(out, record, order)}")
        with atomic_file(out / SAMPLES) as handle:
            handle.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in record.samples(order))
        summary = summarise(record.samples(order), {**facts, **fit.facts()})
        write_json(out / SUMMARY, summary)
        record.remove()
    return summary


def _answer(
    wanted: Sequence[tuple[Asked, int]],
    record: Record,
    config: EvalConfig,
    answerer: Answerer,
    client: RewardClient,
    stopped: Callable[[], bool],
    shown: Callable[[int], None],
) -> None:
    with Judging(client, record, config.reward.think_prefilled, shown) as judging:
        for index, answer in answerer.answers(wanted, stopped):
            judging.add(*wanted[index], answer)


def _kept(out: Path, record: Record, order: Sequence[object]) -> str:
    return f"{len(record.done)} of {len(order)} answers are kept in {out}; the same command with resume=true goes on."
