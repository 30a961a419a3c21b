"""A small pool with known golds, an endpoint that follows a script, and a judge without a server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from data_prep.rows import PoolRow
from recipes.evaluation.answers import Answer, never
from recipes.evaluation.questions import Asked
from reward_server.verdicts import Item, Verdict

SCRIPTED = Path(__file__).parent / "scripted_endpoint.py"
LABELS = "ABCD"


def row(number: int, kind: str = "mcq", gold: str = "A", source: str = "quiz") -> PoolRow:
    """Question `number`, whose right answer is `gold`."""
    question = f"Question {number} of {source}?"
    options = {label: f"option {label.lower()} of {number}" for label in LABELS} if kind == "mcq" else None
    return PoolRow(
        id=f"{source}-{number}",
        source=source,
        domain="math" if kind == "math" else "gpr",
        kind=kind,
        question=question,
        options=options,
        ground_truth=[gold],
        prompt=[{"role": "system", "content": "Think."}, {"role": "user", "content": question}],
    )


def asked(one: PoolRow, private: bool = False) -> Asked:
    """The row as a question of an evaluation."""
    return Asked(one.source, one, {"kind": one.kind}, private)


def boxed(answer: str) -> str:
    """An answer in the right form."""
    return f"<think>so</think>\\boxed{{{answer}}}"


@contextlib.contextmanager
def endpoint(folder: Path, **script: Any) -> Iterator[str]:
    """The address of a scripted endpoint in a process of its own, which ends with the block."""
    place = folder / f"endpoint-{time.monotonic_ns()}"
    place.with_suffix(".json").write_text(json.dumps({"models": ["small"], **script}))
    port_file = place.with_suffix(".port")
    process = subprocess.Popen([sys.executable, SCRIPTED, place.with_suffix(".json"), port_file])
    try:
        end = time.monotonic() + 60
        while not port_file.is_file():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port_file.read_text()}/v1"
    finally:
        process.kill()
        process.wait()


def counts(url: str) -> dict[str, Any]:
    """What a scripted endpoint was asked."""
    return httpx.get(url.removesuffix("/v1") + "/counts", trust_env=False).json()


class Oracle:
    """Implements `Answerer`: the gold of every question in a box, but for those that are to be wrong."""

    def __init__(self, wrong: Sequence[str] = (), stop_after: int | None = None, failure: Exception | None = None):
        self.wrong, self.stop_after, self.failure = wrong, stop_after, failure
        self.asked_for: list[tuple[str, int]] = []
        self.name = "oracle"

    def facts(self) -> dict[str, Any]:
        return {"engine": "oracle", "name": self.name}

    def prompt_tokens(self, one: Asked) -> int | None:
        return len(one.row.prompt[-1]["content"])

    def answers(self, wanted: Sequence[tuple[Asked, int]], stopped: Any = never) -> Iterator[tuple[int, Answer]]:
        for count, index in enumerate(reversed(range(len(wanted)))):
            one, run = wanted[index]
            if count == self.stop_after:
                if self.failure is not None:
                    raise self.failure
                return
            self.asked_for.append((one.row.id, run))
            gold = "nothing" if one.row.id in self.wrong else one.row.ground_truth[0]
            yield index, Answer(boxed(gold), 5, "stop")


class PlainJudge:
    """A judge that knows one rule: the box holds the ground truth. A ground truth `?` cannot be judged."""

    def __init__(self, failure: Exception | None = None):
        self.failure = failure

    def rules_info(self, patience_s: float | None = None) -> dict[str, Any]:
        return {"rules_hash": "plain", "match": "equivalent", "shaping": None}

    def score(self, items: Sequence[Item]) -> list[Verdict]:
        if self.failure is not None:
            raise self.failure
        return [self._verdict(item) for item in items]

    def _verdict(self, item: Item) -> Verdict:
        if item.ground_truth == ("?",):
            return Verdict(item.id, None, None, 1, None, "bad_gold", 0.1)
        answer = item.response.partition("\\boxed{")[2].removesuffix("}")
        right = answer in item.ground_truth
        return Verdict(item.id, float(right), int(right), 1, answer, "correct" if right else "wrong", 0.1)
