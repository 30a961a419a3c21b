"""`crossthink status`, from run folders as jobs leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from submit_helpers import FakeSlurm, attempt, checkpoint, end, fake_slurm, hide_slurm, settled_config, submitted

from conf.cluster import StatusConfig
from crossthink.errors import ConfigError, UserError
from recipes.run_folder import claim
from slurm.attempt import Outcome, write_outcome
from slurm.decide import cause_of
from slurm.status import run, status
from slurm.submit import training


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return fake_slurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 20 steps that was submitted, and of which nothing was seen yet."""
    out = tmp_path / "run"
    (out / "cluster").mkdir(parents=True)
    made = settled_config(out, "steps=20")
    (out / "cluster").rmdir()
    claim(training(made))
    submitted(out, "41")
    return out


def write_steps(folder: Path, count: int) -> None:
    """Steps of 10 s each, but for the first of 1000 s; the reward is a hundredth of the step."""
    lines = [
        {"step": step, "reward": step / 100, "seconds": {"total": 1000.0 if step == 1 else 10.0}}
        for step in range(1, count + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def text(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The lines that are printed, by their first word."""
    assert run(StatusConfig(run=str(folder))) == 0
    found: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(" "):
            key, _, rest = line.partition(" ")
        found.setdefault(key, []).append(rest.strip() if not line.startswith(" ") else line.strip())
    return found


def test_a_job_that_waits(slurm: FakeSlurm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.says("squeue", "41|PENDING|Priority|2026-01-01T08:00:00|2026-01-01T12:00:00|\n")
    assert text(folder, capsys) == {
        "run": [str(folder)],
        "step": ["0 of 20, saved 0"],
        "job": ["41 PENDING (Priority, from 2026-01-01T08:00:00); ends 2026-01-01T12:00:00"],
    }


def test_a_run_under_way(slurm: FakeSlurm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.says("squeue", "41|RUNNING|None|2026-01-01T08:00:00|2026-01-01T12:00:00|n[1-2]\n")
    write_steps(folder, 12)
    checkpoint(folder, 10)
    attempt(folder, "41.1")
    write_outcome(folder, Outcome("41.0", 75, 5, "machine", "n3", "rank_3 was ended by signal 9. Killed", 0.0))
    said = text(folder, capsys)
    # The mean of steps 3 to 12; the median does not mind a slow step.
    assert said["step"] == ["12 of 20, saved 10"] and said["reward"] == ["0.075 over the last 10 steps"]
    assert said["speed"][0].startswith("10.0 s a step; 1 min 20 s left: ")
    assert said["job"] == ["41 RUNNING on n[1-2]; ends 2026-01-01T12:00:00"]
    assert said["attempt"] == [
        "41.0: machine on n3, saved step 5, code 75",
        f"41.1: under way; logs in {folder}/logs/41.1",
    ]
    assert said["error"] == ["attempt 41.0: machine. rank_3 was ended by signal 9. Killed"]

    assert run(StatusConfig(run=str(folder), json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 12 and found["steps"] == 20 and found["saved"] == 10 and found["step_s"] == 10.0
    assert found["left_s"] == 80.0 and found["reward"] == pytest.approx(0.075)
    assert found["jobs"] == [
        {
            "id": "41", "state": "RUNNING", "reason": "None", "start": "2026-01-01T08:00:00",
            "end": "2026-01-01T12:00:00", "nodes": "n[1-2]",
        }
    ]  # fmt: skip
    assert found["attempt"] == "41.1" and [one["attempt"] for one in found["attempts"]] == ["41.0"]


def test_the_first_error_of_an_attempt_under_way(slurm: FakeSlurm, folder: Path) -> None:
    attempt(
        folder, "41.0", end("rank_0", 1, 3.0, said="connection closed"), end("rank_2", 2, 1.0, said="no\nsuch file"),
        end("rank_1", -9, 0.5, followed=True), end("rank_3", 75, 0.1),
    )  # fmt: skip
    assert status(folder).error == "rank_2 on node-rank_2 ended with 2: no\nsuch file"


def test_status_blames_the_task_that_the_decision_blames(slurm: FakeSlurm, folder: Path) -> None:
    ends = [
        end("rollout_0", 1, 0.2, said="no port"), end("rank_0", 1, 0.5, said="connection closed"),
        end("rank_2", -9, 3.0, said="Killed"), end("rank_1", -6, 1.0), end("rank_3", -9, 0.4, followed=True),
    ]  # fmt: skip
    attempt(folder, "41.0", *ends)
    cause = cause_of(1, sorted(ends, key=lambda one: one.time), 4)
    assert cause.node == "node-rank_2"
    assert status(folder).error == "rank_2 on node-rank_2 ended with -9: Killed"
    now = attempt(folder, "41.1", end("rank_0", 1, 0.1), end("rank_1", -9, 9.0, hung=True, said="at all_reduce"))
    assert cause_of(1, now.ends(), 2).said == "1 ranks gave no sign of life. at all_reduce"
    assert status(folder).error == "rank_1 on node-rank_1 ended with -9: at all_reduce"
    attempt(folder, "41.2", end("rollout_0", 1, 0.2, said="no port"), end("rank_0", 75, 0.5))
    assert status(folder).error == "rollout_0 on node-rollout_0 ended with 1: no port"


def test_an_error_of_many_lines_is_shown_from_its_end(
    slurm: FakeSlurm, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt(folder, "41.0", end("rank_2", 1, 1.0, said="x" * 5000 + "\nValueError: the cause"))
    lines = text(folder, capsys)["error"]
    assert lines[-1] == "ValueError: the cause" and len(lines[0]) < 2000


def test_starts_that_slurm_took_back(slurm: FakeSlurm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        attempt(folder, f"41.{number}")
    write_outcome(folder, Outcome("41.1", 75, 5, "stopped", "", "", 0.0))
    said = text(folder, capsys)
    assert [line.split(":")[0] for line in said["attempt"]] == ["41.1", "41.0", "41.2"]
    assert "taken back by SLURM" in said["attempt"][1] and "under way" in said["attempt"][2]
    assert "error" not in said


def test_a_run_that_ended(slurm: FakeSlurm, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.says("squeue", err="slurm_load_jobs error: Invalid job id specified", code=1)
    write_steps(folder, 20)
    checkpoint(folder, 20)
    attempt(folder, "41.0", end("rank_0", 0, 1.0))
    write_outcome(folder, Outcome("41.0", 0, 20, "done", "", "", 0.0))
    said = text(folder, capsys)
    assert said["jobs"] == ["none waits or runs"] and said["attempt"] == ["41.0: done, saved step 20, code 0"]
    assert "error" not in said and said["speed"] == ["10.0 s a step; none is left"]


def test_without_slurm_the_folder_alone_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hide_slurm(tmp_path / "empty", monkeypatch)
    write_steps(folder, 1)
    said = text(folder, capsys)
    assert said["jobs"] == ["SLURM is not here"] and said["step"] == ["1 of 20, saved 0"]
    assert "5 h 16 min left" in said["speed"][0]  # 19 steps of 1000 s
    assert said["reward"][0].endswith("over the last 1 steps")


def test_a_run_that_was_never_submitted(folder: Path, slurm: FakeSlurm) -> None:
    (folder / "cluster" / "submission.json").unlink()
    found = status(folder)
    assert (found.jobs, found.attempt, found.attempts, found.error) == ([], None, [], None)
    assert slurm.calls("squeue") == []


def test_a_damaged_line_is_named(folder: Path, slurm: FakeSlurm) -> None:
    (folder / "metrics.jsonl").write_bytes(b'{"step": 1, "rew\n\xff\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read as JSON lines: line 1: "):
        status(folder)


@pytest.mark.parametrize("name", ["none", "empty"])
def test_what_is_no_run_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"run=.*{name} is no run folder: it has no config.yaml"):
        status(tmp_path / name)


def test_a_slurm_that_does_not_answer_hides_nothing_else(
    folder: Path, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.says("squeue", err="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    said = text(folder, capsys)
    assert said["jobs"][0].startswith("SLURM does not answer: ")
    assert "Unable to contact slurm controller" in said["jobs"][0] and said["step"] == ["0 of 20, saved 0"]
