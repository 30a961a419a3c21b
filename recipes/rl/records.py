"""What a run writes down: metrics.jsonl, rollouts/, tensorboard/. One writer, rank 0; everything can be resumed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import record_function
from torch.utils.tensorboard import SummaryWriter

from crossthink.files import atomic_file, names_full_disk
from recipes.rl.batch import RolloutBatch, Sample
from recipes.rl.trackers import Tracker
from recipes.run_files import BAD_BATCHES, EVALUATIONS, METRICS, ROLLOUTS, TENSORBOARD, read_lines, rollout_file
from recipes.signs_of_life import beat


@dataclass(frozen=True)
class Pass:
    """Samples that went through a model once: the phase, what kind of pass, prompt and response tokens of each."""

    phase: str
    kind: str
    lengths: Sequence[tuple[int, int]]


class PhaseClock:
    """Seconds of each phase of a step, and what was computed in them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.passes: list[Pass] = []

    def ran(self, phase: str, kind: str, lengths: Iterable[tuple[int, int]]) -> None:
        """Note a pass, of a kind that `recipes.rl.throughput` knows."""
        self.passes.append(Pass(phase, kind, list(lengths)))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's wall-clock seconds to phase `name`, which is also a range of the profiler's."""
        beat()
        start = time.perf_counter()
        try:
            with record_function(name):
                yield
        finally:
            beat()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


class Records:
    """Writes the records of a run from `step` on; whatever an earlier attempt wrote beyond it is removed."""

    def __init__(self, out: Path, step: int, trackers: Sequence[Tracker] = ()) -> None:
        self.out = out
        self.trackers = trackers
        # What resumed trackers have already: steps that are made again after a kill are the same steps.
        self._tracked = {"train": _last_step(out / METRICS), "eval": _last_step(out / EVALUATIONS)}
        with names_full_disk(out):
            (out / ROLLOUTS).mkdir(parents=True, exist_ok=True)
            _cut_after(out / METRICS, step)
            _cut_after(out / EVALUATIONS, step if step else -1)  # a run from the start evaluates before it, too
            for folder in (ROLLOUTS, BAD_BATCHES):
                for path in (out / folder).glob("step_*.jsonl"):
                    if int(re.sub(r"\D", "", path.stem)) > step:
                        path.unlink()
            self.tensorboard = SummaryWriter(str(out / TENSORBOARD), purge_step=step + 1)

    def step(self, metrics: dict[str, Any], batch: RolloutBatch) -> None:
        """Write one step: the rollout dump first, so that every line of metrics.jsonl has one."""
        step = metrics["step"]
        _write_samples(rollout_file(self.out, step), step, batch.samples)
        _append(self.out / METRICS, metrics)
        self._scalars("train", metrics, step)

    def bad_batch(self, step: int, samples: Sequence[Sample]) -> None:
        """Write the samples of a step's skipped optimizer steps, as the rollout dump has them."""
        path = rollout_file(self.out, step, BAD_BATCHES)
        path.parent.mkdir(exist_ok=True)
        _write_samples(path, step, samples)

    def evaluation(self, summary: dict[str, Any]) -> None:
        """Write one evaluation inside a run."""
        _append(self.out / EVALUATIONS, summary)
        self._scalars("eval", summary, summary["step"])

    def _scalars(self, prefix: str, values: dict[str, Any], step: int) -> None:
        found = dict(_flat(prefix, values))
        with names_full_disk(self.out / TENSORBOARD):
            for name, value in found.items():
                self.tensorboard.add_scalar(name, value, step)
        for tracker in self.trackers:
            if not tracker.resumed or step > self._tracked[prefix]:
                tracker.log(found, step)

    def close(self) -> None:
        """Flush and close."""
        with names_full_disk(self.out / TENSORBOARD):
            self.tensorboard.close()
        for tracker in self.trackers:
            tracker.close()


def _flat(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a record, nested ones under names with a slash."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}/{name}", value)
        elif isinstance(value, int | float) and name != "step":
            yield f"{prefix}/{name}", float(value)


def _write_samples(path: Path, step: int, samples: Sequence[Sample]) -> None:
    with atomic_file(path) as handle:
        for sample in samples:
            handle.write(json.dumps(sample.to_json(step), ensure_ascii=False) + "\n")


def _append(path: Path, value: dict[str, Any]) -> None:
    with names_full_disk(path), open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(value) + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def _last_step(path: Path) -> int:
    """Of the lines of a record; -1 where there are none, because an evaluation may stand at step 0."""
    return max((line["step"] for line in read_lines(path)), default=-1)


def _cut_after(path: Path, step: int) -> None:
    kept = [line for line in read_lines(path) if line["step"] <= step]
    if path.is_file():
        with atomic_file(path) as handle:
            handle.writelines(json.dumps(line) + "\n" for line in kept)
