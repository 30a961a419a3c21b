"""What an evaluation has found so far, on disk, and whether another start may add to it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.compose import from_file, to_yaml
from conf.evaluate import EvalConfig
from crossthink.errors import ConfigError
from crossthink.files import atomic_file, names_full_disk, write_json
from crossthink.secret import FROM_FILE
from recipes.evaluation.folder import ANSWERS, IDENTITY
from recipes.run_files import SUMMARY
from recipes.run_folder import LOCK, check_continues

CONFIG = "evaluation.yaml"
SERVER_LOG = "reward_server.log"
# What a continued evaluation may change: where it runs, how fast, and when it gives up. Who is asked, by which rules
# and what is the identity's to compare.
MAY_CHANGE = (
    "out", "resume", "threads", "endpoint", "request.token", "request.concurrency", "request.deadline_s",
    "request.retries", "rollout.batch_size", "reward.url", "reward.token", "reward.workers", "reward.deadline_s",
    "reward.outage_limit_s", "reward.max_invalid",
)  # fmt: skip
LEFTOVERS = (LOCK, IDENTITY, SERVER_LOG)
"""What a start leaves that failed before it began an evaluation."""
ADDRESS = "endpoint"  # of the answerer's facts: the same model may be served elsewhere after a stop
Key = tuple[str, str, int]
"""Benchmark, id and run of an answer."""


def key_of(sample: Mapping[str, Any]) -> Key:
    """Which answer a line of samples.jsonl is."""
    return sample["benchmark"], sample["id"], sample["run"]


class Record:
    """`answers.jsonl`: judged answers in the order in which they came, a line each. One writer at a time.

    Opening it cuts off a last line that a kill has torn. Texts stay on disk: memory holds places only.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ANSWERS
        self.done: dict[Key, int] = {}
        """Where the line of each answer begins."""
        self._file = open(self._path, "a+b")  # noqa: SIM115 (closed with the record)
        self._file.seek(0)
        self._end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self.done[key_of(json.loads(line))] = self._end
            self._end += len(line)
        os.ftruncate(self._file.fileno(), self._end)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Append judged answers; once this returns, a kill of this process loses none of them.

        Raises:
            DiskFullError: no space left.
        """
        lines = [(json.dumps(sample, ensure_ascii=False) + "\n").encode() for sample in samples]
        with names_full_disk(self._path):
            self._file.write(b"".join(lines))
            self._file.flush()
        for sample, line in zip(samples, lines, strict=True):
            self.done[key_of(sample)] = self._end
            self._end += len(line)

    def samples(self, order: Iterable[Key]) -> Iterator[dict[str, Any]]:
        """The answers in this order, read from disk one by one."""
        for key in order:
            self._file.seek(self.done[key])
            yield json.loads(self._file.readline())

    def remove(self) -> None:
        """Delete the file, whose contents stand elsewhere by now."""
        self._path.unlink()


def check_folder(out: Path, config: EvalConfig) -> None:
    """Refuse a folder that holds something else than this evaluation, or this one without `resume=true`.

    Raises:
        ConfigError: says what differs and what to do.
    """
    path = out / CONFIG
    if not path.is_file():
        strangers = sorted(p.name for p in out.iterdir() if p.name not in LEFTOVERS)
        if strangers:
            raise ConfigError(
                f"out={out} is not empty and not an evaluation (it holds {strangers[0]}). Choose another out=."
            )
        return
    check_continues(from_file(EvalConfig, path), without_secrets(config), "evaluation", MAY_CHANGE)


def check_identity(out: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to add answers to those of other questions, rules or weights.

    Args:
        out: a folder that `check_folder` has passed.
        identity: what this start finds, or a part of it.

    Raises:
        ConfigError: names what differs, with both values.
    """
    path = out / IDENTITY
    if not (out / CONFIG).is_file():
        return
    known = json.loads(path.read_text("utf-8"))
    for field, before, now in _differences(known, identity):
        raise ConfigError(
            f"{field} of {out} has changed since the evaluation began: it was {before}, now it is {now}. An evaluation "
            "continues only with the questions, model and rules that it began with. Choose another out=."
        )


def claim(out: Path, config: EvalConfig, identity: Mapping[str, Any]) -> None:
    """Make `out` the folder of this evaluation; `check_folder` and `check_identity` have passed it."""
    if not (out / CONFIG).is_file():
        write_json(out / IDENTITY, identity)
    with atomic_file(out / CONFIG) as handle:  # last, as it says that the folder is an evaluation
        handle.write(to_yaml(without_secrets(config)))


def is_finished(out: Path) -> bool:
    """Whether the evaluation in the folder has its summary."""
    return (out / CONFIG).is_file() and (out / SUMMARY).is_file()


def without_secrets(config: EvalConfig) -> EvalConfig:
    """The config as it is written down: a secret that is given as it is stands nowhere; `@FILE` is none."""
    shown = copy.deepcopy(config)
    for part in (shown.request, shown.reward):
        if part.token is not None and not part.token.startswith(FROM_FILE):
            part.token = None
    return shown


def _differences(
    known: Mapping[str, Any], found: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for name, value in found.items():
        before = known.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differences(before, value, f"{prefix}{name}.")
        elif before != value and name != ADDRESS:
            yield prefix + name, before, value
