"""The folder of an unfinished pool: what of it a next run takes up, and what it leaves behind."""

import os
import subprocess
import sys

import pytest
from prep_helpers import REPO

from crossthink.errors import ConfigError
from crossthink.files import DiskFullError
from data_prep.staging import staging, staging_folder

SOURCES = {"math": "a", "syn_qa": "b", "mmlu_train": "c"}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "pools" / "pool"


def finish(state, source):
    """Mark a source finished, with a file of rows and one that only a resumed run needs."""
    files = [f"{source}.parquet", f".{source}.keys"]
    for name in files:
        (state.folder / name).write_text(source)
    state.finish(source, {"files": files, "rows": 1})


def stop_after(out, *sources, run="run", order=SOURCES):
    """A run that finishes `sources` and then fails."""
    with pytest.raises(RuntimeError, match="stopped"), staging(out) as state:
        state.take_up(run, order)
        for source in sources:
            if source not in state.finished:
                finish(state, source)
        raise RuntimeError("stopped")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def taken_up(out, run="run", sources=SOURCES):
    with staging(out) as state:
        state.take_up(run, sources)
        return list(state.finished)


def test_nothing_stays_of_a_run_that_finished_no_source(out):
    stop_after(out)
    assert names(out.parent) == []


def test_finished_sources_are_taken_up_with_their_facts(out):
    stop_after(out, "math", "syn_qa")
    with staging(out) as state:
        assert state.finished == {}
        state.take_up("run", SOURCES)
        assert list(state.finished) == ["math", "syn_qa"]
        assert state.finished["math"] == {"files": ["math.parquet", ".math.keys"], "rows": 1}


@pytest.mark.parametrize(
    ("run", "sources", "fits"),
    [
        ("run", SOURCES, ["math", "syn_qa", "mmlu_train"]),
        ("other", SOURCES, []),
        ("run", {**SOURCES, "math": "x"}, []),
        ("run", {**SOURCES, "syn_qa": "x"}, ["math"]),
        ("run", {"syn_qa": "b", "math": "a"}, []),
        ("run", {"math": "a", "mmlu_train": "c"}, ["math"]),
        ("run", {"math": "a"}, ["math"]),
        ("run", {"numina_math": "d", **SOURCES}, []),
    ],
)
def test_a_source_fits_with_the_same_sources_before_it(out, run, sources, fits):
    stop_after(out, *SOURCES)
    with staging(out) as state:
        state.take_up(run, sources)
        assert list(state.finished) == fits
        # Whatever does not fit is gone: a pool never holds rows of another run.
        assert {path.name.strip(".").partition(".")[0] for path in state.folder.iterdir()} == {"lock", *fits}


def test_what_a_killed_run_left_half_done_is_removed(out):
    stop_after(out, "math")
    folder = staging_folder(out)
    (folder / ".syn_qa.blocks").mkdir()
    (folder / ".syn_qa.blocks" / "000000.arrow").write_text("half")
    (folder / "syn_qa.parquet").write_text("half")
    assert taken_up(out) == ["math"]
    assert names(folder) == [".lock", ".math.finished.json", ".math.keys", "math.parquet"]


def test_a_run_that_takes_nothing_up_removes_nothing(out):
    stop_after(out, "math")
    with pytest.raises(RuntimeError), staging(out):
        raise RuntimeError("before it looked: a hub out of reach")
    assert taken_up(out) == ["math"]


def test_scratch_is_gone_whatever_happens(out):
    with pytest.raises(RuntimeError), staging(out) as state:
        state.take_up("run", SOURCES)
        with state.scratch("math") as folder:
            (folder / "000000.arrow").write_text("x")
            assert folder.parent == state.folder
            raise RuntimeError("stopped")
    assert names(out.parent) == []


def test_a_committed_pool_holds_only_what_belongs_to_it(out):
    with staging(out) as state:
        state.take_up("run", SOURCES)
        finish(state, "math")
        (state.folder / "manifest.json").write_text("{}")
        state.commit(out)
    assert names(out.parent) == ["pool"] and names(out) == ["manifest.json", "math.parquet"]


def test_a_second_process_is_refused_and_changes_nothing(out):
    code = "import sys, pathlib, data_prep.staging as s\nwith s.staging(pathlib.Path(sys.argv[1])): pass"
    with staging(out) as state:
        state.take_up("run", SOURCES)
        finish(state, "math")
        before = names(state.folder)
        done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, cwd=REPO)
        assert "ConfigError" in done.stderr and "pool is in use by another process" in done.stderr
        assert names(state.folder) == before
    assert taken_up(out) == ["math"]


def test_a_lock_that_its_holder_removed_is_no_lock(out, monkeypatch):
    """Between opening the lock and taking it, the other process may have finished and removed it."""
    flock = staging.__wrapped__.__globals__["fcntl"].flock

    def late(handle, how):
        os.unlink(handle.name)
        flock(handle, how)

    monkeypatch.setattr("data_prep.staging.fcntl.flock", late)
    with pytest.raises(ConfigError, match="in use by another process"), staging(out):
        raise AssertionError("two processes in one folder")


def test_a_pool_that_was_made_in_the_meantime_is_not_made_again(out):
    out.mkdir(parents=True)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="pool already exists"), staging(out):
        raise AssertionError("not reached")
    assert names(out.parent) == ["pool"] and names(out) == ["manifest.json"]


def test_no_folder_can_be_made_there(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"out=.*/pool: no folder can be made there \(Not a directory: "):
        staging(tmp_path / "file" / "pool").__enter__()


def test_a_full_disk_keeps_what_is_finished(out):
    with pytest.raises(DiskFullError, match=f"No space left to write {out}"), staging(out) as state:
        state.take_up("run", SOURCES)
        finish(state, "math")
        raise OSError(28, "No space left on device")
    assert taken_up(out) == ["math"]
