"""`crossthink runs`: what is listed, in which order, and what is said of what cannot be read."""

from __future__ import annotations

import fcntl
import json
import os

import pytest

from conf.runs import RunsConfig
from crossthink.errors import ConfigError
from recipes import runs


def make_run(folder, *, steps=3, done=0, saved=0, changed=1_700_000_000, **config):
    folder.mkdir(parents=True)
    values = {"steps": steps, "seed": 0, "out": str(folder), "optimizer": {"lr": 1e-4}, **config}
    (folder / "config.yaml").write_text(json.dumps(values))
    lines = [{"step": step, "reward": step / 10, "seconds": {"total": 1.0}} for step in range(1, done + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if saved:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "latest").write_text(f"step_{saved:06d}\n")
    for name in ("config.yaml", "metrics.jsonl"):
        os.utime(folder / name, (changed, changed))
    return folder


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "runs"
    make_run(root / "old", done=3, saved=3, changed=1_700_000_000)
    new = make_run(root / "sweep" / "nd" / "seed_1", done=2, changed=1_700_000_100, seed=1, blend={"name": "nd"})
    lines = [{"step": 2, "accuracy": 0.5, "questions": 4}, {"step": 3, "accuracy": 0.25, "questions": 4}]
    (new / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "notes").mkdir()
    return root


def test_newest_first_with_state_reward_and_accuracy(folder):
    new, old = runs.list_runs(folder)
    assert (new.name, new.state, new.step, new.steps) == ("sweep/nd/seed_1", "stopped", 2, 3)
    assert (new.reward, new.best, new.final) == (pytest.approx(0.15), 0.5, 0.25)
    assert (old.name, old.state, old.reward) == ("old", "finished", pytest.approx(0.2))
    assert (old.best, old.final) == (None, None)


def test_what_the_configs_differ_in(folder):
    new, old = runs.list_runs(folder)
    assert new.differs == {"seed": 1, "blend.name": "nd"} and old.differs == {"seed": 0}


def test_a_run_that_a_process_holds_is_under_way(folder):
    lock = folder / "sweep" / "nd" / "seed_1" / ".lock"
    with open(lock, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert runs.list_runs(folder)[0].state == "under way"
    assert runs.list_runs(folder)[0].state == "stopped"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.yaml", "a: [", "config.yaml cannot be read as YAML"),
        ("config.yaml", "a: 1", "steps"),
        ("metrics.jsonl", "{not json\n", "metrics.jsonl cannot be read"),
        ("config.yaml", None, "holds no config.yaml"),
    ],
)
def test_damaged_folders_are_named(folder, file, text, said, capsys):
    path = folder / "old" / file
    path.unlink() if text is None else path.write_text(text)
    found = {one.name: one for one in runs.list_runs(folder)}
    assert found["old"].state == "damaged" and said in found["old"].problem
    assert found["sweep/nd/seed_1"].state == "stopped"
    runs.run(RunsConfig(folder=str(folder)))
    assert "damaged" in capsys.readouterr().out


def test_json_and_table(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    runs.run(RunsConfig(folder=str(folder), json=True))
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["sweep/nd/seed_1", "old"]
    runs.run(RunsConfig(folder=str(folder)))
    out = capsys.readouterr().out
    assert "blend.name=nd" in out and "3/3" in out


def test_no_runs_and_no_folder(tmp_path, capsys):
    runs.run(RunsConfig(folder=str(tmp_path)))
    assert "no runs under" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="does not exist"):
        runs.run(RunsConfig(folder=str(tmp_path / "x")))
