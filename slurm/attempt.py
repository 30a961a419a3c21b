"""What the tasks of one job say to each other, in files of the run folder that every node sees.

`RUN/cluster/attempts/JOB.N/` is one start of a job (N counts requeues), so nothing in it is ever stale:

| file | written by | says |
|---|---|---|
| `reward_K.json`, `rollout_K.json`, `critic_0.json` | a server's task | its address, once it answers |
| `rendezvous.json`, `rendezvous_critic.json` | rank 0 | where the ranks meet |
| `stop` | the batch script (USR1) | finish the step, save, end with 75 |
| `over` | the batch script | the ranks have ended; servers end too |
| `ends/TASK.json` | every task | how it ended, and when |

`RUN/cluster/current` names the newest attempt. A task whose attempt is not that one ends at once: a node that SLURM
gave up, but whose processes live, must not write into a run that goes on elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from crossthink.errors import EXIT_DONE, EXIT_RESUMABLE
from crossthink.files import atomic_file, write_json
from recipes.run_files import LOGS

ATTEMPT = "CROSSTHINK_ATTEMPT"
CLUSTER = "cluster"
CURRENT = "current"
ATTEMPTS = "attempts"
STOP = "stop"
OVER = "over"
ENDS = "ends"
SECRET = "token"
SCRIPT = "job.sh"
SETTINGS = "cluster.yaml"
SUBMISSION = "submission.json"
OUTCOMES = "outcomes.jsonl"
FINISHED = "finished"
NEAR_S = 5.0
"""Seconds between two ends whose order does not count: watchers look twice a second, and the nodes' clocks differ."""


@dataclass(frozen=True)
class End:
    """How a task ended.

    Attributes:
        task: rank_3, rollout_0, ...
        node: where it ran.
        code: exit code; negative: the signal that ended it.
        time: seconds since the epoch.
        hung: it gave no sign of life and was ended.
        followed: it was ended because another task had ended, or was superseded.
        said: the end of its log.
    """

    task: str
    node: str
    code: int
    time: float
    hung: bool = False
    followed: bool = False
    said: str = ""

    @property
    def is_of_rank(self) -> bool:
        """Whether it is of a rank of actor or critic, not of a server that is started again."""
        return self.task.startswith(("rank_", "critic_"))


@dataclass(frozen=True)
class Attempt:
    """One start of a job.

    Attributes:
        run: the run folder.
        name: JOB.N.
    """

    run: Path
    name: str

    @classmethod
    def from_environment(cls) -> Attempt:
        """The attempt that the batch script exports."""
        folder = Path(os.environ[ATTEMPT])
        return cls(folder.parents[2], folder.name)

    @classmethod
    def current(cls, run: Path) -> Attempt | None:
        """The newest attempt of a run; None before the first."""
        path = run / CLUSTER / CURRENT
        return cls(run, path.read_text("utf-8").strip()) if path.is_file() else None

    @property
    def folder(self) -> Path:
        """Where its tasks meet: who answers where, what ended, that it is over."""
        return self.run / CLUSTER / ATTEMPTS / self.name

    @property
    def logs(self) -> Path:
        """Where its tasks' logs lie."""
        return self.run / LOGS / self.name

    def log(self, task: str) -> Path:
        """Where what a task's server or rank says is appended."""
        return self.logs / f"{task}.log"

    def is_current(self) -> bool:
        """Whether no later attempt has begun."""
        return Attempt.current(self.run) in (None, self)

    def is_over(self) -> bool:
        """Whether its ranks have ended."""
        return (self.folder / OVER).exists()

    def is_wanted(self) -> bool:
        """Whether its servers are needed still: its ranks have not ended, and no later attempt has begun."""
        return self.is_current() and not self.is_over()

    def must_stop(self) -> bool:
        """Whether its ranks were told to stop."""
        return (self.folder / STOP).exists()

    def publish(self, task: str, url: str) -> None:
        """Say where a server answers."""
        write_json(self.folder / f"{task}.json", {"url": url})

    def published(self, task: str) -> str | None:
        """Where a server answers, once it does."""
        path = self.folder / f"{task}.json"
        return json.loads(path.read_text("utf-8"))["url"] if path.is_file() else None

    def ended(self, end: End) -> None:
        """Write down how a task ended."""
        (self.folder / ENDS).mkdir(exist_ok=True)
        write_json(self.folder / ENDS / f"{end.task}.json", asdict(end))

    def ends(self) -> list[End]:
        """How tasks ended, in the order of time."""
        found = [End(**json.loads(path.read_text("utf-8"))) for path in (self.folder / ENDS).glob("*.json")]
        return sorted(found, key=lambda end: end.time)

    def failure_of(self, role: str) -> str | None:
        """Which task of this role has failed, in a few words; None: none."""
        first = first_failure([end for end in self.ends() if end.task.startswith(f"{role}_")])
        return None if first is None else f"{first.task} on {first.node} ended with code {first.code}"


def first_failure(ends: Sequence[End]) -> End | None:
    """The end that the other failures followed; None where no task has failed by itself.

    A server's counts where no rank has failed, for rank 0 says what a server said. A hang goes before all else: its
    watcher waited long for it. Then the earliest counts, or one by a signal at about the same time, which a broken
    connection never explains. SIGABRT is how NCCL and glibc end a process that has met an error.

    Args:
        ends: in the order of time.
    """
    failed = [end for end in ends if not end.followed and end.code not in (EXIT_DONE, EXIT_RESUMABLE)]
    failed = [end for end in failed if end.is_of_rank] or failed
    if not failed:
        return None
    if hung := [end for end in failed if end.hung]:
        return hung[0]
    near = (end for end in failed if end.time - failed[0].time <= NEAR_S)
    return next((end for end in near if end.code < 0 and end.code != -signal.SIGABRT), failed[0])


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt; a line of `RUN/cluster/outcomes.jsonl`.

    Attributes:
        attempt: its name.
        code: what the batch script exits with: 0, 75 (it goes on), or the run's own code.
        step: of the newest checkpoint.
        cause: done, stopped, machine, error, limit.
        node: the node that is to blame, where cause=machine.
        said: what the first task that failed said last.
        time: seconds since the epoch.
    """

    attempt: str
    code: int
    step: int
    cause: str
    node: str
    said: str
    time: float


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Add a line, whole or not at all."""
    path = run / CLUSTER / OUTCOMES
    before = path.read_text("utf-8") if path.is_file() else ""
    with atomic_file(path) as handle:
        handle.write(before + json.dumps(asdict(outcome)) + "\n")


def outcomes(run: Path) -> list[Outcome]:
    """All attempts that were decided on, oldest first."""
    path = run / CLUSTER / OUTCOMES
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return [Outcome(**json.loads(line)) for line in lines]


def submitted_jobs(run: Path) -> list[str]:
    """Ids of the jobs that were submitted for the run last."""
    path = run / CLUSTER / SUBMISSION
    return json.loads(path.read_text("utf-8"))["jobs"] if path.is_file() else []


def polls(every_s: float = 0.5) -> Iterator[None]:
    """Endless: one turn at once, then one every `every_s` seconds."""
    while True:
        yield
        time.sleep(every_s)
