"""The stages of `crossthink synth` as jobs of a SLURM cluster: submitted once, looked after by the same command."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from conf.synth import SynthConfig
from crossthink.errors import ConfigError, UserError
from crossthink.files import write_json
from data_prep.synthesis.stages import Stage, logs_of
from data_prep.synthesis.yields import tasks_done
from slurm import scheduler

JOBS = "jobs.json"
_ERROR = re.compile(r"(?:\d+: )?(?:(?:\w+\.)*[A-Z]\w*|slurmstepd: error): (.+)")
"""An exception's last line, behind srun's number of the task; or why SLURM ended the job."""


def check_jobs(config: SynthConfig) -> None:
    """Refuse what cannot be submitted. Raises ConfigError."""
    from data_prep.synthesis.slurm_executor import secrets_in_words

    if config.cluster.style != "none":
        raise ConfigError(
            f"cluster.style={config.cluster.style}: synth's jobs run without containers. Give cluster.style=none and "
            "cluster.python=, a Python on the nodes that has crossthink[synth]."
        )
    if keys := secrets_in_words(config):
        raise ConfigError(f"{keys[0]}: with cluster= the key must be @FILE, a file that the nodes see; what a job is "
                          "made of is written down.")  # fmt: skip


def submit(config: SynthConfig, left: Sequence[Stage]) -> dict[str, str]:
    """Submit the stages in their order, each to begin when the one before has ended well. Returns the job of each.

    Raises:
        UserError: sbatch is not here, or refuses. What was submitted before stands in jobs.json.
    """
    from data_prep.synthesis.slurm_executor import slurm_executor

    jobs: dict[str, str] = {}
    for stage in left:
        executor = slurm_executor(config, stage, [*jobs.values()][-1] if jobs else None)
        try:
            executor.run()
        except FileNotFoundError as error:
            raise UserError("There is no sbatch here: cluster= needs a machine that submits to SLURM.") from error
        except subprocess.CalledProcessError as error:
            raise UserError(f"sbatch refused stage {stage.name} with code {error.returncode}; its words are above. The "
                            f"script: {logs_of(config, stage.name)}/launch_script.slurm.") from error  # fmt: skip
        jobs[stage.name] = str(executor.job_id)
        write_json(Path(config.out) / JOBS, jobs)
    return jobs


def submitted(config: SynthConfig) -> dict[str, str]:
    """The job of each stage that was submitted last."""
    path = Path(config.out) / JOBS
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def states(jobs: dict[str, str]) -> dict[str, str]:
    """Stages whose jobs wait or run, with what SLURM says of them. Raises UserError where it does not answer."""
    found = {}
    for stage, job in jobs.items():
        known = sorted({one.state.lower() for one in scheduler.jobs([job])})
        if known:
            found[stage] = f"job {job} {', '.join(known)}"
    return found


def progress(config: SynthConfig, left: Sequence[Stage], alive: dict[str, str]) -> Iterator[str]:
    """A line for each stage that is not finished; of one whose job is gone, why."""
    jobs = submitted(config)
    for stage in left:
        logs = logs_of(config, stage.name)
        line = f"stage {stage.name}: {tasks_done(logs)} of {stage.tasks} tasks done"
        if stage.name in alive:
            yield f"{line}, {alive[stage.name]}"
        elif stage.name in jobs:
            error = last_error(logs / "slurm_logs")
            yield f"{line}, job {jobs[stage.name]} has ended{f': {error}' if error else ''} ({logs / 'slurm_logs'})"


def last_error(logs: Path) -> str | None:
    """What the newest job that failed said last; None: nothing is said."""
    for path in sorted(logs.glob("*.out"), key=lambda one: one.stat().st_mtime, reverse=True):
        for line in reversed(path.read_text("utf-8", "replace").splitlines()):
            if found := _ERROR.fullmatch(line.strip()):
                return found[1]
    return None
