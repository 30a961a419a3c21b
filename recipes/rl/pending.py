"""A rollout that other processes make while this one waits, computes log-probs, or trains on the one before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from crossthink.errors import UserError
from recipes.rl.batch import Prompt, RolloutBatch, Sample
from recipes.rl.scoring import Judge, ScoringAhead, item
from recipes.rollout.interface import RemoteEngine, Request, Response, SamplingParams
from recipes.signs_of_life import beat
from recipes.spmd import HEARD_S, broadcast_json, from_first_rank, is_first_rank
from recipes.work import Work
from reward_server.verdicts import Verdict

POLL_S = 1.0
Phase = Callable[[str], Any]
"""A clock's `phase`: a context manager around what takes the time."""


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """A response as the judge reads it: special tokens removed, everything else untouched."""
    return tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


class PendingRollout:
    """`group` responses to each prompt, under way from the beginning. One on every rank; the first rank's thread asks.

    A group is sent to the judge as soon as it is whole.
    """

    def __init__(
        self,
        engine: RemoteEngine,
        client: Judge | None,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        group: int,
        params: SamplingParams,
        think_prefilled: bool,
        first: int = 0,
    ) -> None:
        """Begin. `first` is the number of the first prompt within the step."""
        self.prompts = prompts
        self.group = group
        self._tokenizer = tokenizer
        self._think_prefilled = think_prefilled
        self._responses: dict[int, list[Response | None]] = {p: [None] * group for p in range(len(prompts))}
        self._whole: list[int] = []  # prompts whose groups are, in the order in which they became so
        self._verdicts: dict[str, Verdict] = {}
        self._news = threading.Condition()
        self._generated = False
        self._work: Work | None = None
        self._batch: RolloutBatch | None = None
        if is_first_rank():
            assert client is not None
            self._work = Work(lambda: self._make(engine, client, params, first), "rollout")

    def wait(self) -> None:
        """Until everything is there, or failed. Collective."""
        self._wait_until(lambda: False)

    def failed(self) -> bool:
        """Whether it ended without a batch, on the first rank; False elsewhere. To be asked after `wait`."""
        return self._work is not None and self._work.error is not None

    def finish(self, phase: Phase) -> RolloutBatch:
        """The batch, on every rank. Collective.

        Args:
            phase: gets the seconds spent waiting: `rollout` until everything is generated, then `reward`.

        Raises:
            UserError: generating or judging failed; raised alike on every rank.
        """
        if self._batch is None:
            with phase("rollout"):
                self._wait_until(lambda: self._generated)
            with phase("reward"):
                self._wait_until(lambda: False)
                self._batch = made_batch(self._tokenizer, self.prompts, from_first_rank(self._to_json))
        return self._batch

    def groups(self, least: int) -> Iterator[list[tuple[int, list[Response]]]]:
        """Prompts' numbers with their responses as groups become whole, on every rank, until none are left. Collective.

        Args:
            least: groups to give each time, unless there are fewer in all.

        Raises:
            UserError: generating failed; raised alike on every rank.
        """
        seen = 0
        while seen < len(self.prompts):
            self._wait_until(partial(self._has, self._at_least(seen + least, least)))
            chunk = from_first_rank(partial(self._chunk, seen, least))
            yield [(p, [Response(**fields) for fields in responses]) for p, responses in chunk]
            seen += len(chunk)

    def ready(self) -> list[list[dict[str, Any]]] | None:
        """Responses and verdicts as JSON, for a checkpoint; on the first rank, after `wait`, unless it failed."""
        return self._to_json() if self._work is not None and not self.failed() else None

    def _make(self, engine: RemoteEngine, client: Judge, params: SamplingParams, first: int) -> None:
        numbers = [(p, g) for p in range(len(self.prompts)) for g in range(self.group)]
        requests = [Request(self.prompts[p].token_ids, first + p, g) for p, g in numbers]
        scoring = ScoringAhead(client)
        try:
            for index, response in engine.stream(requests, params):
                p, g = numbers[index]
                self._responses[p][g] = response
                if None not in self._responses[p]:
                    scoring.add(self._items(p))
                    self._tell(partial(self._whole.append, p))
            self._tell(lambda: setattr(self, "_generated", True))
            self._verdicts = scoring.finish()
        finally:
            scoring.end()
            self._tell(lambda: None)

    def _items(self, p: int) -> list[Any]:
        return [
            item(self.prompts[p], p, g, response, decode(self._tokenizer, response.token_ids), self._think_prefilled)
            for g, response in enumerate(self._responses[p])
            if response is not None
        ]

    def _tell(self, change: Callable[[], None]) -> None:
        with self._news:
            change()
            self._news.notify_all()

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Until it holds on the first rank, or nothing more will come. Collective.

        The first rank is heard of now and then: a rollout may take longer than a collective may.
        """
        while not broadcast_json(self._holds_soon(condition)):
            beat()

    def _holds_soon(self, condition: Callable[[], bool]) -> bool:
        if self._work is None:
            return False  # the first rank's word counts
        end = time.monotonic() + HEARD_S
        with self._news:
            while not condition() and self._work.is_running() and time.monotonic() < end:
                self._news.wait(timeout=POLL_S)
            return condition() or not self._work.is_running()

    def _raise_failure(self) -> None:
        assert self._work is not None
        if self._work.error is not None:
            raise self._work.error

    def _has(self, wanted: int) -> bool:
        return len(self._whole) >= wanted

    def _at_least(self, count: int, least: int) -> int:
        """`count`, or all where fewer than `least` would be left."""
        return count if len(self.prompts) - count >= least else len(self.prompts)

    def _chunk(self, seen: int, least: int) -> list[tuple[int, list[dict[str, Any]]]]:
        self._raise_failure()
        whole = len(self._whole)  # more may become so meanwhile
        end = whole if whole == len(self.prompts) else min(whole, len(self.prompts) - least)
        return [(p, [asdict(r) for r in self._responses[p] if r is not None]) for p in self._whole[seen:end]]

    def _to_json(self) -> list[list[dict[str, Any]]]:
        assert self._work is not None
        self._work.wait()
        self._raise_failure()
        return [
            [
                {"response": asdict(response), "verdict": self._verdicts[f"{p}.{g}"].to_json()}
                for g, response in enumerate(self._responses[p])
                if response is not None
            ]
            for p in range(len(self.prompts))
        ]


class MadeRollout:
    """A rollout that a checkpoint held: as a `PendingRollout` that has ended well."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], found: list[list[dict[str, Any]]]
    ) -> None:
        """`found` is what `PendingRollout.ready` gave for the same prompts.

        Raises:
            UserError: it is of another number of prompts.
        """
        if len(found) != len(prompts):
            raise UserError(
                f"The checkpoint holds rollouts of {len(found)} prompts, and a step has {len(prompts)}: resume with "
                "the prompts_per_step= that the run was started with."
            )
        self._found = found
        self._batch = made_batch(tokenizer, prompts, found)

    def wait(self) -> None:
        """It is there."""

    def failed(self) -> bool:
        """It did not."""
        return False

    def finish(self, phase: Phase) -> RolloutBatch:
        """See `PendingRollout.finish`."""
        return self._batch

    def ready(self) -> list[list[dict[str, Any]]] | None:
        """See `PendingRollout.ready`."""
        return self._found


def made_batch(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], found: Sequence[Sequence[dict[str, Any]]]
) -> RolloutBatch:
    """The batch of these prompts, whose responses and verdicts stand in `found` as JSON."""
    samples = []
    for prompt, group in zip(prompts, found, strict=True):
        for g, fields in enumerate(group):
            response = Response(**fields["response"])
            text = decode(tokenizer, response.token_ids)
            samples.append(Sample(prompt, g, response, text, Verdict.from_json(fields["verdict"])))
    return RolloutBatch(samples, len(found[0]))
