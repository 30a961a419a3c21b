"""What SLURM's own commands say and do where `submit` and `status` run; the batch script calls its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossthink.errors import UserError
from slurm.time_limit import seconds_of

LIMIT_S = 60.0
"""Seconds for an answer: a controller under load takes some."""
ENDLESS = ("infinite", "UNLIMITED", "n/a")
UNKNOWN_JOB = "Invalid job id"


@dataclass(frozen=True)
class Partition:
    """A partition: its nodes, the longest time limit in seconds (None: none), and whether it is the default."""

    nodes: int
    longest_s: int | None
    is_default: bool


@dataclass(frozen=True)
class Job:
    """A job that SLURM still knows, as `squeue` shows it."""

    id: str
    state: str
    reason: str
    start: str
    end: str
    nodes: str


def is_here() -> bool:
    """Whether SLURM's commands are on the path."""
    return shutil.which("sbatch") is not None


def partitions() -> dict[str, Partition]:
    """The cluster's partitions by name. Raises UserError where SLURM does not answer."""
    found: dict[str, Partition] = {}
    for line in _call(["sinfo", "--noheader", "--format=%R|%P|%D|%l"]).splitlines():
        name, starred, nodes, longest = line.split("|")
        # A line for each state of nodes.
        count = int(nodes) + (found[name].nodes if name in found else 0)
        limit = None if longest in ENDLESS else seconds_of(longest)
        found[name] = Partition(count, limit, starred.endswith("*"))
    return found


def jobs(ids: Sequence[str]) -> list[Job]:
    """Those of these jobs that wait or run. Raises UserError where SLURM does not answer."""
    found = []
    for one in ids:
        try:
            lines = _call(["squeue", "--noheader", f"--jobs={one}", "--format=%i|%T|%r|%S|%e|%N"]).splitlines()
        except UserError as error:
            if UNKNOWN_JOB in str(error):  # it ended a while ago
                continue
            raise
        found += [Job(*line.split("|")) for line in lines]
    return found


def test(script: Path) -> None:
    """Have SLURM look at a script without queueing it. Raises UserError with its words where it refuses."""
    _call(["sbatch", "--test-only", str(script)])


def submit(script: Path, after: str | None = None) -> str:
    """Queue a script; behind the end of the job `after`, if one is given. Returns the job's id."""
    behind = [] if after is None else [f"--dependency=afterany:{after}"]
    return _call(["sbatch", "--parsable", *behind, str(script)]).strip().partition(";")[0]


def _call(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not on the path: no SLURM cluster is reached from here.") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"`{' '.join(command)}` did not answer within {LIMIT_S:g} s.") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise UserError(f"`{' '.join(command)}` failed with code {done.returncode}: {said}")
    return done.stdout
