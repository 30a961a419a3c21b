"""What tests ask of a SLURM cluster on this machine: submit, wait for a state, look."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # for all tests of this folder

from slurm_cluster import Cluster

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
POLL_S = 0.2

T = TypeVar("T")


def call(cluster: Cluster, *words: str | Path) -> str:
    """Standard output of a SLURM command that must not fail."""
    done = cluster.try_call(*words)
    assert done.returncode == 0, f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def submit_script(cluster: Cluster, path: Path, *options: str) -> int:
    """`sbatch OPTIONS PATH`: the job's number, of a heterogeneous job its first component's."""
    return int(call(cluster, "sbatch", "--parsable", *options, path))


def components(cluster: Cluster, job_id: int) -> list[dict[str, str]]:
    """KEY=VALUE of `scontrol show job`, for each component of a heterogeneous job; a plain job is its only one."""
    records = call(cluster, "scontrol", "--oneliner", "show", "job", str(job_id)).splitlines()
    return [dict(word.split("=", 1) for word in record.split() if "=" in word) for record in records if record]


def job_fields(cluster: Cluster, job_id: int) -> dict[str, str]:
    """KEY=VALUE of `scontrol show job`; of a heterogeneous job, the component with this number."""
    return next(fields for fields in components(cluster, job_id) if fields["JobId"] == str(job_id))


def job_state(cluster: Cluster, job_id: int) -> str:
    """PENDING, RUNNING, COMPLETED and so on."""
    return job_fields(cluster, job_id)["JobState"]


def wait_until(what: str, look: Callable[[], T | None], limit_s: float) -> T:
    """The first true answer of `look()`; AssertionError naming `what` after `limit_s` seconds without one."""
    deadline = time.monotonic() + limit_s
    while not (answer := look()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(POLL_S)
    return answer


def wait_job(cluster: Cluster, job_id: int, states: Iterable[str] = ENDED, limit_s: float = 120) -> str:
    """Waits until a job is in one of `states`, and returns its state.

    Raises:
        AssertionError: it is not after `limit_s` seconds, or has ended in another.
    """
    wanted = tuple(states)

    def reached() -> str | None:
        state = job_state(cluster, job_id)
        assert state in wanted or state not in ENDED, f"job {job_id} ended {state}, not {' or '.join(wanted)}"
        return state if state in wanted else None

    return wait_until(f"job {job_id} {' or '.join(wanted)}", reached, limit_s)


def clear_requeue_delay(cluster: Cluster, job_id: int, limit_s: float = 120) -> None:
    """Lets a requeued job start at once, of a heterogeneous one all components. What still completes is waited for:
    SLURM sets the time when it becomes pending."""
    parts = [int(fields["JobId"]) for fields in components(cluster, job_id)]
    if {wait_job(cluster, part, ("PENDING", "RUNNING"), limit_s) for part in parts} == {"PENDING"}:
        # slurmd refuses a credential of the second in which it revoked the last one, and SLURM then fails the job.
        call(cluster, "scontrol", "update", f"JobId={job_id}", "StartTime=now+2")


def node_states(cluster: Cluster) -> dict[str, str]:
    """State of each node, such as idle; * at its end means that the node does not answer."""
    lines = call(cluster, "sinfo", "--noheader", "--Node", "--partition=batch", "--format=%N %T").splitlines()
    return dict(line.split() for line in lines)


def processes(marker: str | Path) -> set[int]:
    """Processes with `marker` in a word of their command line. Zombies have none."""
    found = psutil.process_iter(["cmdline"])
    return {process.pid for process in found if any(str(marker) in word for word in process.info["cmdline"] or [])}


def task_processes(marker: str | Path) -> set[int]:
    """As `processes`, without srun, whose command line holds those of its tasks."""
    return processes(marker) - processes("srun")


def batch_script(path: Path, header: str, body: str) -> Path:
    """A batch script that writes its output beside itself, behind what an earlier start of the job wrote.

    Args:
        path: where it is written.
        header: lines of #SBATCH; five minutes is the time limit unless they say otherwise.
        body: lines of bash.
    """
    path.write_text(f"#!/bin/bash\n#SBATCH --output={path}.out --open-mode=append --time=5\n{header}\n{body}\n")
    return path


def output(path: Path) -> str:
    """What the job of a `batch_script` has written."""
    return Path(f"{path}.out").read_text()
