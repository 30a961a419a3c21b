"""Training by `crossthink submit` on a real SLURM: the same run as without, through a death of a rank and a requeue.

The miniature of `benchmarks/slurm_faults.py`, which `make test-slow` runs whole.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from compare_runs import differences
from slurm_cluster import Cluster, kill, submit
from train_helpers import TinyWorld, succeed

LIMIT_S = 240.0
STEPS, SAVED_EVERY, KILLED_AT = 8, 4, 5  # far enough from the end that a slow machine kills before it


def settings(world: TinyWorld) -> list[str]:
    """Of both runs: two pipeline stages."""
    return [
        f"data={world.pool}", f"model={world.base}", "recipe=tiny", f"steps={STEPS}", "prompts_per_step=8",
        "samples_per_prompt=8", "micro_batch_tokens=512", "actor.threads=1", f"checkpoint.every={SAVED_EVERY}",
        "actor.pipeline_parallel=2",
    ]  # fmt: skip


@pytest.mark.timeout(600)
def test_a_rank_dies_and_the_requeued_job_ends_as_a_run_that_never_saw_slurm(
    quiet_cluster: Cluster, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    words = settings(tiny_world)
    succeed("train", f"out={tmp_path / 'without'}", *words)
    nodes = ["nodes.actor=2", "nodes.gpus_per_node=1", "nodes.rollout=1", "nodes.reward=1", "cluster=local"]
    run = submit(quiet_cluster, tmp_path / "run", *words, *nodes)

    run.wait_step(KILLED_AT, LIMIT_S)
    kill(run.rank(1))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        submit(quiet_cluster, run.out, *words, *nodes, "resume=true")
    assert f"already has job {run.job}" in refused.value.stderr

    assert run.wait_done(LIMIT_S) == 0, run.story()
    assert differences(tmp_path / "without", run.out) == []
    assert [outcome["cause"] for outcome in run.outcomes()] == ["machine", "done"]
    first = run.outcomes()[0]
    assert (first["code"], first["step"]) == (75, SAVED_EVERY)
    assert "rank_1 was ended by signal 9" in first["said"]
    status = json.loads(quiet_cluster.crossthink("status", f"run={run.out}", "json=true"))
    assert (status["step"], status["saved"]) == (STEPS, STEPS)
    assert [one["attempt"] for one in status["attempts"]] == [f"{run.job}.0", f"{run.job}.1"]
