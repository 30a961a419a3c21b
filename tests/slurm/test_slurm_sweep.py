"""A sweep whose runs are jobs of a real SLURM: submitted once each, looked after by the same command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from train_helpers import TinyWorld

LIMIT_S = 600.0
POLL_S = 5.0
ARMS = ("nd", "only_gpr")


def jobs_of(run: Path) -> list[str]:
    """The jobs that a run was submitted as."""
    return json.loads((run / "cluster" / "submission.json").read_text())["jobs"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_arms_as_jobs(quiet_cluster: Cluster, tiny_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    trained = ["recipe=tiny", "steps=2", "prompts_per_step=4", "samples_per_prompt=4", "micro_batch_tokens=512"]
    trained += ["nodes.actor=1", "nodes.gpus_per_node=1", "nodes.reward=1"]
    words = [
        "recipe=ablation_blends", f"arms=[{','.join(ARMS)}]", f"model={tiny_world.base}", f"data={tiny_world.pool}",
        f"eval.data={tiny_world.held_out}", "eval.words=['limit=3']", "threads=1", f"out={out}",
        f"words={json.dumps(trained)}", "cluster=local",
    ]  # fmt: skip

    def sweep(*more: str) -> subprocess.CompletedProcess[str]:
        return quiet_cluster.try_call(sys.executable, "-m", "recipes.cli", "sweep", *words, *more)

    first = sweep()
    assert first.returncode == 75, first.stderr
    jobs = [jobs_of(out / arm / "seed_0") for arm in ARMS]
    assert len({job for one in jobs for job in one}) == sum(map(len, jobs))
    deadline = time.monotonic() + LIMIT_S
    while (later := sweep("resume=true")).returncode == 75:
        assert time.monotonic() < deadline, later.stderr
        time.sleep(POLL_S)
    assert later.returncode == 0, later.stderr
    found = json.loads((out / "sweep.json").read_text())
    assert list(found["arms"]) == ["base", *ARMS] and not found["unfinished"]
    assert (out / "report.html").is_file()
    assert [jobs_of(out / arm / "seed_0") for arm in ARMS] == jobs  # nothing was submitted twice
    for arm in ARMS:
        steps = [json.loads(line)["step"] for line in (out / arm / "seed_0/metrics.jsonl").read_text().splitlines()]
        assert steps == [1, 2]
