"""`crossthink status`: a run's jobs, how far it is, when it will be done, and what went wrong first."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from conf.cluster import StatusConfig
from crossthink.errors import EXIT_DONE, ConfigError, UserError
from recipes.run_files import METRICS, newest_step, read_lines
from recipes.run_folder import CONFIG, read_config
from slurm import scheduler
from slurm.attempt import ATTEMPTS, CLUSTER, Attempt, Outcome, first_failure, outcomes, submitted_jobs
from slurm.scheduler import Job

RECENT = 10
"""Steps over which reward and speed are averaged."""
SAID = 2000
"""Characters of an error that are shown."""


@dataclass(frozen=True)
class Status:
    """How a run stands.

    Attributes:
        run: its folder.
        step: the last one in metrics.jsonl; 0: none yet.
        steps: of the whole run.
        saved: step of the newest checkpoint.
        reward: mean of the last steps.
        step_s: median seconds of the last steps.
        left_s: seconds of the steps that are left, without waiting in the queue.
        jobs: those that SLURM still knows; None: it could not be asked.
        unasked: why it could not; None where it was.
        attempt: the newest start of a job.
        attempts: all that were decided on.
        taken: starts that SLURM took back: a requeue, a preemption, a lost node.
        error: what went wrong first in the newest attempt that failed, and what it said; None: nothing.
    """

    run: str
    step: int
    steps: int
    saved: int
    reward: float | None
    step_s: float | None
    left_s: float | None
    jobs: list[Job] | None
    unasked: str | None
    attempt: str | None
    attempts: list[Outcome]
    taken: list[str]
    error: str | None


def run(config: StatusConfig) -> int:
    """Print a run's status.

    Raises:
        ConfigError: the folder holds no run.
    """
    found = status(Path(config.run))
    if config.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print(as_text(found))
    return EXIT_DONE


def status(folder: Path) -> Status:
    """Read a run's status from its folder and from SLURM, where that is here.

    Raises:
        ConfigError: the folder holds no run.
    """
    config = read_config(folder) if folder.is_dir() else None
    if config is None:
        raise ConfigError(f"run={folder} is no run folder: it has no {CONFIG}.")
    lines = read_lines(folder / METRICS)
    recent = lines[-RECENT:]
    seconds = [line["seconds"]["total"] for line in recent]
    step = lines[-1]["step"] if lines else 0
    step_s = statistics.median(seconds) if seconds else None
    current = Attempt.current(folder)
    now = None if current is None else current.name
    decided = outcomes(folder)
    jobs, unasked = _jobs(folder)
    return Status(
        run=str(folder),
        step=step,
        steps=config.steps,
        saved=newest_step(folder),
        reward=statistics.fmean(line["reward"] for line in recent) if recent else None,
        step_s=step_s,
        left_s=None if step_s is None else (config.steps - step) * step_s,
        jobs=jobs,
        unasked=unasked,
        attempt=now,
        attempts=decided,
        taken=_taken(folder, {one.attempt for one in decided}, now),
        error=first_error(folder),
    )


def _jobs(folder: Path) -> tuple[list[Job] | None, str | None]:
    """The run's jobs, or why SLURM cannot be asked: all else is in the folder, and worth seeing without it."""
    if not scheduler.is_here():
        return None, "SLURM is not here"
    try:
        return scheduler.jobs(submitted_jobs(folder)), None
    except UserError as error:
        return None, f"SLURM does not answer: {error}"


def _taken(folder: Path, decided: set[str], now: str | None) -> list[str]:
    begun = {path.name for path in (folder / CLUSTER / ATTEMPTS).glob("*")}

    def in_order(name: str) -> list[int]:
        return [int(part) for part in name.split(".")]

    return sorted(begun - decided - {now}, key=in_order)


def first_error(folder: Path) -> str | None:
    """What went wrong first in the attempt under way, else in the last one, in the words of the task that failed."""
    current = Attempt.current(folder)
    if current is not None and (first := first_failure(current.ends())):
        return f"{first.task} on {first.node} ended with {first.code}: {first.said}"
    bad = [one for one in outcomes(folder) if one.cause in ("machine", "error", "limit")]
    return f"attempt {bad[-1].attempt}: {bad[-1].cause}. {bad[-1].said}" if bad else None


def as_text(found: Status) -> str:
    """The status in a few lines."""
    lines = [f"run       {found.run}", f"step      {found.step} of {found.steps}, saved {found.saved}"]
    if found.reward is not None and found.step_s is not None and found.left_s is not None:
        lines.append(f"reward    {found.reward:.3f} over the last {min(RECENT, found.step)} steps")
        done = datetime.fromtimestamp(time.time() + found.left_s).strftime("%Y-%m-%d %H:%M")
        left = f"{_hours(found.left_s)} left: {done} without waiting" if found.step < found.steps else "none is left"
        lines.append(f"speed     {found.step_s:.1f} s a step; {left}")
    if found.jobs is None:
        lines.append(f"jobs      {found.unasked}")
    elif not found.jobs:
        lines.append("jobs      none waits or runs")
    for job in found.jobs or []:
        where = f" on {job.nodes}" if job.nodes else f" ({job.reason}, from {job.start})"
        lines.append(f"job       {job.id} {job.state}{where}; ends {job.end}")
    for one in found.attempts:
        node = f" on {one.node}" if one.node else ""
        lines.append(f"attempt   {one.attempt}: {one.cause}{node}, saved step {one.step}, code {one.code}")
    lines += [f"attempt   {name}: taken back by SLURM (requeue, preemption, a lost node)" for name in found.taken]
    if found.attempt is not None and all(one.attempt != found.attempt for one in found.attempts):
        lines.append(f"attempt   {found.attempt}: under way; logs in {Attempt(Path(found.run), found.attempt).logs}")
    if found.error is not None:
        lines.append("error     " + found.error[-SAID:].replace("\n", "\n          "))
    return "\n".join(lines)


def _hours(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
