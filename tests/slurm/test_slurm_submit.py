"""`crossthink submit` against a made-up SLURM: what it writes, queues and prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from submit_helpers import FakeSlurm, checkpoint, config, everything, fake_slurm, hide_slurm, mode

from conf.cluster import SubmitConfig
from crossthink.errors import ConfigError, UserError
from crossthink.secret import read_secret
from recipes.run_folder import read_config
from slurm.attempt import submitted_jobs
from slurm.settings import read_cluster
from slurm.submit import run, settled

WRITTEN = [
    ".lock", "cluster", "cluster/cluster.yaml", "cluster/job.sh", "cluster/submission.json", "cluster/token",
    "config.yaml", "logs",
]  # fmt: skip


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return fake_slurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "a run"


def test_what_is_written_and_queued(slurm: FakeSlurm, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = config(out, "cluster.retries=7", "rollout.servers=2")
    assert run(made) == 0
    assert everything(out) == WRITTEN
    script = out / "cluster" / "job.sh"
    assert slurm.submitted == [["--parsable", str(script)]]
    # SLURM has seen this very script before anything was written.
    assert slurm.calls("sbatch")[0][0] == "--test-only"
    assert (slurm.folder / "sbatch.tested").read_text() == script.read_text()
    assert submitted_jobs(out) == ["101"]
    written = json.loads((out / "cluster" / "submission.json").read_text())
    assert written["cluster"] == "bare" and written["time"] > 0
    assert read_cluster(out) == made.cluster and read_cluster(out).retries == 7
    said = capsys.readouterr()
    assert "submitted job 101:" in said.err and f"crossthink status run={out}" in said.err and said.out == ""


def test_the_tasks_can_read_the_runs_config(slurm: FakeSlurm, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.parent.mkdir()
    monkeypatch.chdir(out.parent)
    assert run(config(out.name, "rollout.servers=2", "sampling.temperature=0.5")) == 0
    found = read_config(out)
    assert found is not None and type(found).__name__ == "TrainConfig"
    assert (found.out, found.rollout.servers, found.sampling.temperature) == (str(out), 2, 0.5)


def test_the_secret_is_the_owners_alone(slurm: FakeSlurm, out: Path) -> None:
    before = os.umask(0o000)
    try:
        run(config(out, "rollout.servers=1"))
    finally:
        os.umask(before)
    token = out / "cluster" / "token"
    secret = token.read_text().strip()
    assert mode(token) == 0o600 and len(secret) >= 32
    for name in ("config.yaml", "cluster/job.sh", "cluster/cluster.yaml"):
        assert secret not in (out / name).read_text()
    found = read_config(out)
    assert read_secret(found.reward.token) == read_secret(found.rollout.token) == secret


def test_the_secret_of_a_run_stays_when_it_goes_on(slurm: FakeSlurm, out: Path) -> None:
    run(config(out))
    secret = (out / "cluster" / "token").read_text()
    run(config(out, "resume=true"))
    assert (out / "cluster" / "token").read_text() == secret


def test_servers_of_others_keep_their_own_secret() -> None:
    made = settled(config("/runs/a", "reward.url=[http://r:1]", "reward.token=theirs"))
    assert (made.reward.token, made.rollout.token) == ("theirs", None)
    made = settled(config("/runs/a", "rollout.url=[http://r:1]", "rollout.token=theirs"))
    assert made.rollout.token == "theirs" and made.reward.token == "@/runs/a/cluster/token"


def test_paths_are_those_of_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "model").mkdir()
    made = settled(
        config(
            "a", "data=b", "eval.data=c", "model=model", "rollout.weights_dir=w", "cluster.image=i.sqsh",
            "cluster.rollout_image=~/j.sqsh",
        )
    )  # fmt: skip
    assert (made.out, made.data, made.eval.data) == tuple(str(tmp_path / name) for name in "abc")
    assert (made.model.path, made.rollout.weights_dir) == (str(tmp_path / "model"), str(tmp_path / "w"))
    assert (made.cluster.image, made.cluster.rollout_image) == (str(tmp_path / "i.sqsh"), "/home/me/j.sqsh")
    for given, style, python in (
        ("~/venv/bin/python", "none", "/home/me/venv/bin/python"),
        (".venv/bin/python", "none", f"{tmp_path}/.venv/bin/python"),
        ("python3.11", "none", "python3.11"),
        ("~/venv/bin/python", "pyxis", "~/venv/bin/python"),
    ):
        found = settled(config("/a", f"cluster.python={given}", f"cluster.style={style}"))
        assert found.cluster.python == python
    made = settled(config("/a", "cluster.image=nvcr.io#nvidia/nemo:25.02"))
    assert made.cluster.image == "nvcr.io#nvidia/nemo:25.02" and made.data is None


def test_a_chain_of_jobs_each_behind_the_one_before(
    slurm: FakeSlurm, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(out, "cluster.continuation=chain", "cluster.jobs=3"))
    script = str(out / "cluster" / "job.sh")
    assert slurm.submitted == [
        ["--parsable", script],
        ["--parsable", "--dependency=afterany:101", script],
        ["--parsable", "--dependency=afterany:102", script],
    ]
    assert submitted_jobs(out) == ["101", "102", "103"]
    assert "submitted job 101 and 2 behind it" in capsys.readouterr().err


def test_a_dry_run_prints_and_writes_nothing(slurm: FakeSlurm, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config(out), dry_run=True) == 0
    said = capsys.readouterr()
    assert said.out.startswith("#!/bin/bash\n") and said.out.endswith("exit 75\n") and said.err == ""
    assert not out.parent.exists() and slurm.calls("sbatch") == []
    # What the cluster cannot give is refused all the same.
    with pytest.raises(ConfigError, match="which has 4"):
        run(config(out, "nodes.actor=5"), dry_run=True)


def test_a_dry_run_needs_no_slurm(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide_slurm(tmp_path / "empty", monkeypatch)
    assert run(config(out, "nodes.actor=50"), dry_run=True) == 0
    assert "#SBATCH --nodes=50" in capsys.readouterr().out and not out.parent.exists()


def test_a_dry_run_where_slurm_does_not_answer(slurm: FakeSlurm, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.says("sinfo", err="sinfo: fatal: Could not establish a configuration source", code=1)
    assert run(config(out), dry_run=True) == 0
    said = capsys.readouterr()
    assert said.out.startswith("#!/bin/bash\n") and "unchecked" in said.err and "configuration source" in said.err


def test_the_command_itself(slurm: FakeSlurm, out: Path) -> None:
    words = ["recipe=tiny", "cluster=bare", "cluster.gres=null", f"out={out}", "nodes.gpus_per_node=1", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-m", "recipes.cli", "submit", *words], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "") and "#SBATCH --ntasks-per-node=1\n" in done.stdout
    words[-1] = "nodes.actor=9"
    done = subprocess.run(
        [sys.executable, "-m", "recipes.cli", "submit", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and done.stdout == "" and "9 nodes of partition batch, which has 4" in done.stderr
    assert not out.parent.exists()


def test_when_its_job_has_ended_a_run_goes_on_with_resume(slurm: FakeSlurm, out: Path) -> None:
    run(config(out))
    checkpoint(out, 20)
    (out / "cluster" / "finished").write_text("1\n")
    with pytest.raises(ConfigError, match="already holds this run. Add resume=true"):
        run(config(out))
    assert len(slurm.submitted) == 1
    run(config(out, "resume=true", "cluster.retries=9"))
    assert submitted_jobs(out) == ["102"] and read_cluster(out).retries == 9
    # Its jobs would end at once with the code of the run before.
    assert not (out / "cluster" / "finished").exists()


def test_a_run_with_another_config_is_refused(slurm: FakeSlurm, out: Path) -> None:
    run(config(out))
    with pytest.raises(ConfigError, match="holds a run with another config: seed was 0, now 1"):
        run(config(out, "resume=true", "seed=1"))
    assert len(slurm.submitted) == 1 and submitted_jobs(out) == ["101"]


def test_the_nodes_may_change_when_a_run_goes_on(slurm: FakeSlurm, out: Path) -> None:
    run(config(out))
    run(config(out, "resume=true", "nodes.actor=2", "nodes.reward=1", "cluster.shared=true"))
    assert read_config(out).nodes.actor == 2


def test_sbatch_that_fails_leaves_nothing_of_a_new_run(slurm: FakeSlurm, out: Path) -> None:
    slurm.sbatch(fail_from="101")
    with pytest.raises(UserError, match="Job violates accounting/QOS policy"):
        run(config(out))
    assert submitted_jobs(out) == [] and [path.name for path in out.iterdir()] == [".lock"]
    slurm.sbatch(fail_from="1000")
    run(config(out))
    assert submitted_jobs(out) == ["101"]


def test_a_chain_that_breaks_off_keeps_what_was_queued(slurm: FakeSlurm, out: Path) -> None:
    slurm.sbatch(fail_from="103")
    with pytest.raises(UserError, match="sbatch .*--dependency=afterany:102"):
        run(config(out, "cluster.continuation=chain", "cluster.jobs=5"))
    assert submitted_jobs(out) == ["101", "102"]
    slurm.says("squeue", "101|PENDING|Priority|N/A|N/A|\n")
    with pytest.raises(ConfigError, match=r"already has job 101 \(PENDING\)"):
        run(config(out, "resume=true"))


def test_settling_changes_nothing_of_what_was_given() -> None:
    made = config("/runs/a", "rollout.servers=2")
    again = settled(settled(made))
    assert type(again) is SubmitConfig and again == settled(made)
    assert (made.reward.token, made.rollout.token) == (None, None)
