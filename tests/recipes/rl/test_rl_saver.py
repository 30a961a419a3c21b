"""Saving aside: whole or absent as ever, one at a time, and nothing that fails is silent."""

import errno
import threading
import time
from types import SimpleNamespace

import pytest
from table_world import NextNumber, TableActor, table_config, table_run

from crossthink.errors import StoppedEarly, UserError
from crossthink.files import DiskFullError
from recipes.rl import checkpoints
from recipes.rl.checkpoints import latest
from recipes.rl.saver import Saver
from recipes.rl.walltime import JOB_END
from recipes.run_files import read_lines

LIMIT_S = 30


class GatedEngine:
    """Writes its value when the gate is open; then may fail."""

    def __init__(self):
        self.gate = threading.Event()
        self.value = "first"
        self.failure = None
        self.threads = set()

    def stage(self, folder):
        return [GatedPart(self, folder, self.value)]


class GatedPart:
    def __init__(self, engine, folder, value):
        self.engine, self.folder, self.value = engine, folder, value

    def write(self):
        assert self.engine.gate.wait(LIMIT_S)
        self.engine.threads.add(threading.get_ident())
        (self.folder / "weights").write_text(self.value)
        if self.engine.failure:
            raise self.engine.failure

    def finish(self):
        """Collective, so it must not be called beside training."""
        assert threading.current_thread() is threading.main_thread()


@pytest.fixture
def engine():
    engine = GatedEngine()
    yield engine
    engine.gate.set()


@pytest.fixture
def saver(alone, tmp_path, engine):
    return Saver(tmp_path, engine, keep=10, asynchronous=True)


def state(step):
    return {"step": step, "prompts": {"position": [step]}}


def names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_training_goes_on_while_it_is_written(saver, engine, tmp_path):
    mutable = state(5)
    saver.save(5, mutable, wait=False)
    engine.value = "later"
    mutable["prompts"]["position"].append(99)
    saver.poll()
    assert names(tmp_path) == [".step_000005.tmp"] and latest(tmp_path) is None
    assert saver.last_save_s is None
    assert saver.seconds().keys() == {"checkpoint"}
    engine.gate.set()
    saver.finish()
    found = latest(tmp_path)
    found.verify()
    assert (found.folder / "weights").read_text() == "first"
    assert found.trainer_state() == state(5)
    assert names(tmp_path) == ["latest", "step_000005"]
    assert threading.get_ident() not in engine.threads
    assert saver.seconds()["checkpoint_write"] == saver.last_save_s > 0
    assert saver.seconds() == {}


def test_polling_brings_it_home(saver, engine, tmp_path):
    saver.save(5, state(5), wait=False)
    engine.gate.set()
    for _ in range(2):  # the engines' parts, then the commit
        saver._under_way.work.wait()
        saver.poll()
    assert saver._under_way is None
    latest(tmp_path).verify()


def test_the_next_save_waits_for_the_one_under_way(saver, engine, tmp_path):
    saver.save(5, state(5), wait=False)
    opener = threading.Timer(0.05, engine.gate.set)
    opener.start()
    engine.value = "second"
    saver.save(6, state(6), wait=True)
    opener.join()
    assert names(tmp_path) == ["latest", "step_000005", "step_000006"]
    assert latest(tmp_path).step == 6
    assert (checkpoints.Checkpoint(tmp_path / "checkpoints" / "step_000005").folder / "weights").read_text() == "first"


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError(errno.ENOSPC, "No space left on device"), DiskFullError), (RuntimeError("boom"), RuntimeError)],
)
@pytest.mark.parametrize("where", ["write", "commit"])
def test_a_failed_write_is_raised_at_the_next_chance(saver, engine, tmp_path, monkeypatch, failure, raised, where):
    engine.gate.set()
    saver.save(5, state(5), wait=True)
    if where == "write":
        engine.failure = failure
    else:

        def fail(*_):
            raise failure

        monkeypatch.setattr(checkpoints, "commit_dir", fail)
    saver.save(6, state(6), wait=False)
    with pytest.raises(raised):
        saver.finish()
    assert names(tmp_path) == ["latest", "step_000005"]
    latest(tmp_path).verify()
    saver.finish()  # it is over
    monkeypatch.undo()
    engine.failure = None
    saver.save(6, state(6), wait=True)
    assert latest(tmp_path).step == 6


def test_what_a_killed_run_left_is_cleared_first(alone, tmp_path, engine):
    aside = tmp_path / "checkpoints" / ".step_000007.tmp"
    aside.mkdir(parents=True)
    Saver(tmp_path, engine, keep=1, asynchronous=False)
    assert names(tmp_path) == []


def without_times(out):
    lines = read_lines(out / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k in ("step", "loss", "grad_norm", "reward", "kl")} for line in lines]


def test_a_run_that_saves_aside_is_the_same_run(alone, tmp_path):
    """Policy and critic; resumed twice."""
    options = {"name": "ppo", "checkpoint__every": 1}
    table_run(table_config(tmp_path / "plain", 6, **options))
    for steps in (2, 4, 6):
        table_run(table_config(tmp_path / "aside", steps, checkpoint__asynchronous=True, **options))
        latest(tmp_path / "aside").verify()
    assert without_times(tmp_path / "plain") == without_times(tmp_path / "aside")
    assert names(tmp_path / "plain") == names(tmp_path / "aside") == ["latest", "step_000005", "step_000006"]
    lines = read_lines(tmp_path / "aside" / "metrics.jsonl")
    assert all(line["seconds"]["checkpoint"] > 0 for line in lines if line["step"] % 2 == 0)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_judge_that_fails_loses_nothing_under_way(alone, tmp_path, asynchronous):
    class Failing:
        calls = 0

        def score(self, items):
            self.calls += 1
            if self.calls > 3:
                raise UserError("no server")
            return judge.score(items)

    judge = NextNumber()
    config = table_config(tmp_path, 9, checkpoint__every=2, checkpoint__asynchronous=asynchronous)
    with pytest.raises(UserError, match="step 3 is saved"):
        table_run(config, judge=Failing())
    assert names(tmp_path) == ["latest", "step_000002", "step_000003"]
    latest(tmp_path).verify()


def test_near_the_end_of_the_job_everything_is_saved(alone, tmp_path, monkeypatch):
    """The clock of the test jumps by 100 s a step: the margin is 60 s × 1.5 at first."""
    clock = iter(range(1000, 2000, 100))
    monkeypatch.setattr("recipes.rl.loop.time", SimpleNamespace(time=lambda: next(clock), monotonic=time.monotonic))
    monkeypatch.setenv(JOB_END, "1295")
    config = table_config(tmp_path, 9)
    with pytest.raises(StoppedEarly) as caught:
        table_run(config)
    assert "Stopped before step 4 of 9" in str(caught.value) and JOB_END in str(caught.value)
    assert latest(tmp_path).step == 3
    monkeypatch.undo()
    table_run(config)
    table_run(table_config(tmp_path / "whole", 9))
    assert without_times(tmp_path) == without_times(tmp_path / "whole")


def test_too_late_to_begin(alone, tmp_path, monkeypatch):
    monkeypatch.setenv(JOB_END, "1000")
    actor = TableActor()
    with pytest.raises(StoppedEarly, match="no step was finished"):
        table_run(table_config(tmp_path, 9), actor)
    assert actor.steps == 0 and names_or_none(tmp_path) == []


def names_or_none(out):
    return names(out) if (out / "checkpoints").is_dir() else []
