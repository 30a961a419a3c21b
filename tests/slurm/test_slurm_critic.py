"""PPO with NeMo-Aligner's critic server as a job: its ranks stand beside the actor's, and end with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from slurm_helpers import processes, wait_job
from train_helpers import TinyWorld

NEMO = Path(__file__).parents[2] / ".venv-nemo" / "bin" / "python"
LIMIT_S = 600.0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not NEMO.exists(), reason="needs NeMo-Aligner's environment: make nemo")
@pytest.mark.parametrize("ranks", [1, 2])
def test_two_steps_with_a_critic_server(
    ranks: int, quiet_cluster: Cluster, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = [
        "recipe=tiny", f"model={tiny_world.base}", f"data={tiny_world.pool}", f"out={out}", "steps=2", "algorithm=ppo",
        "actor=aligner", "actor.reference=offload", "actor.threads=1", "prompts_per_step=4", "samples_per_prompt=4",
        "micro_batch_tokens=512", "nodes.actor=1", f"nodes.gpus_per_node={ranks}", f"actor.tensor_parallel={ranks}",
        "nodes.reward=1", "cluster=local",
    ]  # fmt: skip
    submitted = quiet_cluster.try_call(NEMO, "-m", "recipes.cli", "submit", *words)
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads((out / "cluster" / "submission.json").read_text())["jobs"][0]

    wait_job(quiet_cluster, int(job), ("COMPLETED",), LIMIT_S)
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [1, 2] and all("value_loss" in line for line in steps)
    ends = [json.loads(path.read_text()) for path in (out / "cluster" / "attempts").glob(f"{job}.0/ends/critic_*.json")]
    assert len(ends) == ranks and all(end["followed"] for end in ends)
    assert next(end["code"] for end in ends if end["task"] == "critic_0") == 0
    assert not processes(out)
