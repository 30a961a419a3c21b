"""The stages of a run as SLURM jobs, by datatrove's executor."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.synth import SynthConfig
from crossthink.errors import UserError
from crossthink.files import write_json
from data_prep.synthesis.stages import Stage, slurm_executor

JOBS = "jobs.json"


def submit(config: SynthConfig, left: Sequence[Stage]) -> dict[str, str]:
    """Submit the stages in their order, each waiting for the one before. Returns the job of each.

    Raises:
        UserError: sbatch is not here, or refuses.
    """
    jobs: dict[str, str] = {}
    before: Any = None
    for stage in left:
        before = slurm_executor(config, stage, before)
        try:
            before.run()
        except FileNotFoundError as error:
            raise UserError("There is no sbatch here: cluster= needs a machine that submits to SLURM.") from error
        except subprocess.CalledProcessError as error:
            raise UserError(f"sbatch refused stage {stage.name} with {error.returncode}.") from error
        jobs[stage.name] = str(before.job_id)
        write_json(Path(config.out) / JOBS, jobs)
    return jobs


def under_way(config: SynthConfig) -> list[str]:
    """The jobs of an earlier submission that wait or run."""
    path = Path(config.out) / JOBS
    jobs = list(json.loads(path.read_text("utf-8")).values()) if path.is_file() else []
    found = []
    for job in jobs:  # one by one: squeue refuses a list with a job that it has forgotten
        asked = ["squeue", "--noheader", "--format=%A", f"--jobs={job}"]
        try:
            said = subprocess.run(asked, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise UserError(f"There is no squeue here: whether job {job} still runs cannot be told.") from error
        found += [job] if said.returncode == 0 and said.stdout.strip() else []
    return found
