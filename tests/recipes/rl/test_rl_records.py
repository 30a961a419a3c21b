"""Records: one line a step, a dump for every line, and nothing left of an attempt beyond the resume point."""

import json
import os
import time

import pytest
from rl_helpers import rollout_batch

from crossthink.files import DiskFullError
from recipes.rl import records
from recipes.rl.records import PhaseClock, Records
from recipes.run_files import read_lines, rollout_file

BATCH = rollout_batch([[1.0, 0.0], [None, 0.0]])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def metrics(step):
    return {"step": step, "loss": 0.5 / step, "mfu": None, "seconds": {"rollout": 1.0, "total": 2.0}}


def steps(out, name="metrics.jsonl"):
    return [line["step"] for line in read_lines(out / name)]


def write(out, start, end):
    found = Records(out, start)
    for step in range(start + 1, end + 1):
        found.step(metrics(step), BATCH)
    found.close()


def test_what_a_step_leaves(tmp_path):
    write(tmp_path, 0, 3)
    assert steps(tmp_path) == [1, 2, 3]
    assert read_lines(tmp_path / "metrics.jsonl")[1] == metrics(2)
    assert names(tmp_path / "rollouts") == [f"step_{n:06d}.jsonl" for n in (1, 2, 3)]
    rows = read_lines(rollout_file(tmp_path, 2))
    assert rows == json.loads(json.dumps([sample.to_json(2) for sample in BATCH.samples]))
    assert any((tmp_path / "tensorboard").iterdir())


def test_evaluations(tmp_path):
    found = Records(tmp_path, 0)
    for step in (0, 5, 10):
        found.evaluation({"step": step, "reward": 0.1, "by_kind": {"mcq": {"reward": 0.2}}})
    found.close()
    assert steps(tmp_path, "evaluations.jsonl") == [0, 5, 10]
    Records(tmp_path, 5).close()
    assert steps(tmp_path, "evaluations.jsonl") == [0, 5]


def test_a_run_that_starts_again_evaluates_before_it_again(tmp_path):
    """Killed before its first checkpoint: what it evaluates at step 0 stands there once."""
    for _ in range(2):
        found = Records(tmp_path, 0)
        found.evaluation({"step": 0, "reward": 0.1})
        found.close()
    assert steps(tmp_path, "evaluations.jsonl") == [0]


@pytest.mark.parametrize("resume", [0, 1, 3, 4, 7])
def test_what_lies_beyond_the_resume_point_is_removed(tmp_path, resume):
    write(tmp_path, 0, 4)
    Records(tmp_path, resume).close()
    kept = list(range(1, min(resume, 4) + 1))
    assert steps(tmp_path) == kept
    assert names(tmp_path / "rollouts") == [f"step_{n:06d}.jsonl" for n in kept]


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', "{", '{"step": 4, "loss": 1.0}'])
@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
def test_a_torn_last_line_is_cut(tmp_path, name, torn):
    """A kill in the middle of a write leaves a line without its end; even a whole value is not trusted without it."""
    lines = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3))
    (tmp_path / name).write_text(lines + torn)
    assert steps(tmp_path, name) == [1, 2, 3]
    found = Records(tmp_path, 3)
    assert (tmp_path / name).read_text() == lines
    (found.step(metrics(4), BATCH) if name == "metrics.jsonl" else found.evaluation({"step": 4}))
    found.close()
    assert steps(tmp_path, name) == [1, 2, 3, 4]


def test_a_run_cut_off_anywhere_and_resumed_has_the_records_of_one_that_was_not(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write(whole, 0, 5)
    write(cut, 0, 4)  # steps 3 and 4 after the checkpoint of step 2
    with open(cut / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 5')
    write(cut, 2, 5)
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    for name in names(whole / "rollouts"):
        assert (cut / "rollouts" / name).read_bytes() == (whole / "rollouts" / name).read_bytes()
    assert names(cut / "rollouts") == names(whole / "rollouts")


def test_every_line_has_its_dump(tmp_path, monkeypatch):
    """Cut off between the two writes, a step has a dump and no line, never the other way round."""
    found = Records(tmp_path, 0)
    found.step(metrics(1), BATCH)
    monkeypatch.setattr(records, "_append", lambda path, value: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        found.step(metrics(2), BATCH)
    found.close()
    assert steps(tmp_path) == [1] and rollout_file(tmp_path, 2).is_file()
    Records(tmp_path, 1).close()
    assert names(tmp_path / "rollouts") == ["step_000001.jsonl"]


def test_cutting_is_atomic(tmp_path, monkeypatch):
    """A kill while the file is cut leaves the file as it was."""
    write(tmp_path, 0, 3)
    before = (tmp_path / "metrics.jsonl").read_text()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Records(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert [name for name in names(tmp_path) if name.endswith(".tmp")] == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    found = Records(tmp_path, 0)
    with pytest.raises(DiskFullError, match=r"metrics\.jsonl"):
        found.step(metrics(1), BATCH)
    found.close()


def test_the_clock_adds_up():
    clock = PhaseClock()
    for name in ("rollout", "train", "rollout"):
        with clock.phase(name):
            time.sleep(0.002)
    with pytest.raises(ValueError, match="x"), clock.phase("reward"):
        raise ValueError("x")
    assert list(clock.seconds) == ["rollout", "train", "reward"]
    assert clock.seconds["rollout"] >= 0.004 and clock.seconds["reward"] >= 0
    assert clock.total == pytest.approx(sum(clock.seconds.values()))
