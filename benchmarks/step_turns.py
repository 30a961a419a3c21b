"""Turns: a worker process of `benchmarks/step.py` runs as many steps as it is told to, then waits for its next turn.

Only the standard library: TRL's worker runs in an environment of its own. A turn is a line with a number of steps on
stdin; its answer is a line of JSON on stdout: the seconds of each step by phase, and the process's peak memory so far.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path


class Turns:
    """A worker's side. Construct it before anything else prints: stdout is taken for the answers alone."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._left = 0
        self._steps: list[Mapping[str, float]] = []

    def go_on(self, step: Mapping[str, float] | None = None) -> bool:
        """Note the seconds of a finished step. At a turn's end answers and waits. False: there is no further turn."""
        if step is not None:
            self._steps.append(step)
            self._left -= 1
        if self._left == 0:
            if self._steps:
                print(json.dumps({"steps": self._steps, "peak_mb": peak_mb()}), file=self._answers, flush=True)
            self._steps = []
            self._left = int(sys.stdin.readline() or 0)
        return self._left > 0


class Stopwatch:
    """Seconds by phase, of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's seconds to phase `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def finish(self, rest: str) -> dict[str, float]:
        """The phases, with `total`, and as `rest` what no phase had."""
        total = time.perf_counter() - self._began
        return {**self.seconds, rest: total - sum(self.seconds.values()), "total": total}


def peak_mb() -> float:
    """The resident high-water mark of this process, 10^6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError("VmHWM")


def reward(text: str) -> float:
    """Cheap, and different within a group."""
    return float(len(text) % 2)
