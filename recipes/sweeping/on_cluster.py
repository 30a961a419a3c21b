"""A sweep whose runs are jobs of a SLURM cluster: one job each, as SLURM has no array of jobs of different shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from conf.cluster import ClusterConfig
from crossthink.files import atomic_file
from recipes.sweeping.runs import PlannedRun

CLUSTER_FILE = "cluster.yaml"


def write_cluster_file(out: Path, cluster: ClusterConfig) -> Path:
    """The cluster as a file for `cluster=` of submit, with what the sweep's command line changed of it."""
    path = out / CLUSTER_FILE
    with atomic_file(path) as handle:
        yaml.safe_dump(asdict(cluster), handle, sort_keys=False)
    return path


def submit_all(
    runs: Sequence[PlannedRun], cluster: Path, say: Callable[[str], None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Submit every run that is neither finished nor in the queue.

    Returns:
        By name, how every run stands that is not trained yet; and why `submit` refused those that it did.
    """
    waiting: dict[str, str] = {}
    refused: dict[str, str] = {}
    for one in runs:
        if one.is_trained():
            continue
        jobs = _jobs(one.out)
        if jobs:
            waiting[one.name] = f"job {', '.join(jobs)}; `crossthink status run={one.out}`"
            continue
        again = ["resume=true"] if one.out.is_dir() and any(one.out.iterdir()) else []
        done = _crossthink("submit", *one.train[1:], f"cluster={cluster}", *again)
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        if done.returncode == 0:
            waiting[one.name] = said[-1]
        else:
            refused[one.name] = f"not submitted: {said[-1]}"
        say(f"{one.name}: {(waiting | refused)[one.name]}")
    return waiting, refused


def _jobs(run: Path) -> list[str]:
    """Ids of the run's jobs that wait or run."""
    if not run.is_dir():
        return []
    done = _crossthink("status", f"run={run}", "json=true")
    if done.returncode:
        return []
    return [str(job["id"]) for job in json.loads(done.stdout)["jobs"] or []]


def _crossthink(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "recipes.cli", *words], capture_output=True, text=True, check=False)
