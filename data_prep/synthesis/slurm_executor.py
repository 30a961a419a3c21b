"""datatrove's SLURM executor for a stage: one array of jobs, on any cluster of conf/cluster/."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datatrove.executor import SlurmPipelineExecutor

from conf.cluster import ClusterConfig
from conf.synth import SynthConfig
from crossthink.secret import FROM_FILE
from data_prep.synthesis.stages import Stage, logs_of, steps_of

MOST_JOBS = 1000
"""Of an array: SLURM's MaxArraySize is 1001 unless its administrator says otherwise. A job has more tasks then."""


class SlurmExecutor(SlurmPipelineExecutor):
    """Options without a value are left to the cluster; a stage is one array of jobs and nothing else."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """See `SlurmPipelineExecutor.get_sbatch_args`."""
        found = super().get_sbatch_args(max_array)
        if found.get("mem"):
            del found["mem-per-cpu"]
        return {name: value for name, value in found.items() if value is not None}

    def launch_merge_stats(self) -> None:
        """Nothing: `yields.py` reads the statistics of the tasks, and a job for it would wait in the queue."""


def slurm_executor(config: SynthConfig, stage: Stage, after: str | None) -> SlurmExecutor:
    """Submits a stage's unfinished tasks, once the job `after` has ended well.

    Args:
        config: of the run; `cluster` says how jobs look.
        stage: the stage.
        after: job of the stage before; None: nothing is waited for.
    """
    cluster = config.cluster
    environment = [f"export {name}={shlex.quote(value)}" for name, value in cluster.env.items()]
    modules = [f"module load {shlex.quote(name)}" for name in cluster.modules]
    python = Path(cluster.python or sys.executable).parent
    return SlurmExecutor(
        pipeline=steps_of(config, stage),
        tasks=stage.tasks,
        tasks_per_job=math.ceil(stage.tasks / MOST_JOBS),
        workers=config.workers,
        time=cluster.time,
        partition=cluster.partition,
        qos=cluster.qos,
        cpus_per_task=cluster.cpus_per_task or 1,
        job_name=f"synth-{stage.name}",
        logging_dir=str(logs_of(config, stage.name)),
        depends_job_id=after,
        env_command="\n".join(
            [*modules, *cluster.setup, *environment, f"export PATH={shlex.quote(str(python))}:$PATH"]
        ),
        sbatch_args={
            "account": cluster.account,
            "mem": cluster.mem,
            "constraint": cluster.constraint,
            "reservation": cluster.reservation,
            "exclude": ",".join(cluster.exclude) or None,
            "kill-on-invalid-dep": "yes",  # what waits for a failed stage would wait for ever
            **options_of(cluster),
        },
        requeue_signals=None,
    )


def options_of(cluster: ClusterConfig) -> dict[str, str]:
    """`cluster.options` as datatrove takes them: ["--comment=rl"] is {"comment": "rl"}."""
    pairs = (option.removeprefix("--").partition("=") for option in cluster.options)
    return {name: value for name, _, value in pairs}


def secrets_in_words(config: SynthConfig) -> Sequence[str]:
    """Keys whose API key is no `@FILE`: an executor's files would hold it."""
    tokens = {f"{group}.token": getattr(config, group).token for group in ("writer", "solver", "embeddings")}
    return [key for key, token in tokens.items() if token and not token.startswith(FROM_FILE)]
