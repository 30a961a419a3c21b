"""Runs of `crossthink submit` on a real SLURM cluster of this machine: start it, follow a run, do harm to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from compare_runs import metrics

SCRIPT = Path(__file__).parents[1] / "slurm" / "local_cluster.sh"
POLL_S = 0.2
COMMAND_LIMIT_S = 200.0
# Variables of a job that this process may itself run in, which would pass for this cluster's.
OF_OUTER_JOB = re.compile("(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SQUEUE|SINFO|SCANCEL)_")


class Stuck(Exception):
    """Something that should have happened did not, in time."""


def without_slurm() -> dict[str, str]:
    """This process's environment without the variables of SLURM."""
    return {key: value for key, value in os.environ.items() if not OF_OUTER_JOB.match(key)}


def try_call(
    words: Iterable[str | Path], environment: dict[str, str], limit_s: float = COMMAND_LIMIT_S
) -> subprocess.CompletedProcess[str]:
    """A command that may fail, without a terminal."""
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=limit_s,
        env=environment,
    )


@dataclass(frozen=True)
class Cluster:
    """A cluster that slurm/local_cluster.sh started in `folder`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that talks to it."""
        return {**without_slurm(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def try_call(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of SLURM's or of crossthink's against it, which may fail."""
        return try_call(words, self.environment)

    def call(self, *words: str | Path) -> str:
        """Run a command that must not fail. Raises CalledProcessError with what it said."""
        return _output(self.try_call(*words))

    def try_script(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `slurm/local_cluster.sh` on it, which may fail."""
        return try_call([SCRIPT, command, *words, "--dir", self.folder], without_slurm())

    def script(self, command: str, *words: str) -> str:
        """Run one that must not fail."""
        return _output(self.try_script(command, *words))

    def crossthink(self, *words: str) -> str:
        """Run a command of `crossthink`."""
        return self.call(sys.executable, "-m", "recipes.cli", *words)


@contextlib.contextmanager
def local_cluster(folder: Path, *options: str) -> Iterator[Cluster]:
    """A cluster that lives as long as the block; options as of `local_cluster.sh start`."""
    cluster = Cluster(folder)
    cluster.script("start", *options)
    try:
        yield cluster
    finally:
        cluster.script("stop")


def _output(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
    return done.stdout


@dataclass(frozen=True)
class Submitted:
    """A run that was submitted."""

    cluster: Cluster
    out: Path

    @property
    def job(self) -> str:
        """SLURM's id of its first job."""
        return json.loads((self.out / "cluster" / "submission.json").read_text())["jobs"][0]

    @property
    def attempt(self) -> str:
        """The newest attempt's name; empty before the first."""
        current = self.out / "cluster" / "current"
        return current.read_text().strip() if current.is_file() else ""

    def outcomes(self) -> list[dict[str, Any]]:
        """What came of each attempt that was decided on."""
        path = self.out / "cluster" / "outcomes.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def step(self) -> int:
        """The last whole line of metrics.jsonl."""
        lines = metrics(self.out)
        return lines[-1]["step"] if lines else 0

    def wait_step(self, step: int, limit_s: float) -> None:
        """Until the run has done so many steps."""
        self._wait(lambda: self.step() >= step, limit_s, f"step {step}")

    def wait_attempt(self, after: str, limit_s: float) -> None:
        """Until a later attempt than `after` has begun."""
        self._wait(lambda: self.attempt not in ("", after), limit_s, f"an attempt after {after}")

    def wait_done(self, limit_s: float) -> int:
        """Until the run is finished or given up. Returns the code that the batch script ended with."""
        finished = self.out / "cluster" / "finished"
        self._wait(finished.is_file, limit_s, "the end")
        return int(finished.read_text())

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of the newest attempt whose command lines have all these words."""
        folder, found = str(self.out / "cluster" / "attempts" / self.attempt), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get("CROSSTHINK_ATTEMPT") == folder and all(
                    word in process.cmdline() for word in words
                ):
                    found.append(process)
        return found

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank."""
        for process in self.processes("slurm.rank"):
            if process.environ().get("RANK") == str(number):
                return process
        raise Stuck(f"rank {number} of {self.out.name} does not run")

    def _wait(self, condition: Callable[[], object], limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise Stuck(f"{self.out.name}: {what} not seen within {limit_s:g} s.\n{self.story()}")
            time.sleep(POLL_S)

    def story(self) -> str:
        """What to read when something went wrong."""
        logs = sorted((self.out / "logs").rglob("*.*log"), key=lambda path: path.stat().st_mtime)
        parts = [self.cluster.crossthink("status", f"run={self.out}")]
        parts += [f"== {path.relative_to(self.out)}\n{path.read_text(errors='replace')[-1500:]}" for path in logs]
        return "\n".join(parts)[-12000:]


def submit(cluster: Cluster, out: Path, *words: str) -> Submitted:
    """Submit a run to the cluster."""
    cluster.crossthink("submit", f"out={out}", *words)
    return Submitted(cluster, out)


def kill(process: psutil.Process) -> None:
    """End a process at once."""
    process.send_signal(signal.SIGKILL)
