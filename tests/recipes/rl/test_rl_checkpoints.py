"""Checkpoints: whole or absent, `latest` last, and nothing changed is trusted."""

import errno
import json
import os
import shutil

import pytest

from crossthink.errors import ConfigError, UserError
from crossthink.files import DiskFullError
from recipes.manifest import DamagedError
from recipes.rl import checkpoints
from recipes.rl.checkpoints import Checkpoint, is_finished, latest, newest_whole
from recipes.rl.saver import Saver


class FakeActor:
    """Writes two files; may fail after the first."""

    def __init__(self, failure=None):
        self.failure = failure

    def stage(self, folder):
        self.folder = folder / "actor"
        return [self]

    def write(self):
        self.folder.mkdir()
        (self.folder / "weights").write_bytes(os.urandom(100))
        if self.failure:
            raise self.failure
        (self.folder / "rng").write_bytes(b"state")

    def finish(self):
        assert (self.folder / "rng").is_file()


def save_steps(out, *steps, keep=10, actor=None):
    saver = Saver(out, actor or FakeActor(), keep, asynchronous=False)
    for step in steps:
        saver.save(step, {"step": step, "prompts": {"position": 8 * step}}, wait=False)


def kept(out):
    """Everything below checkpoints/, without what is inside the checkpoints."""
    return sorted(path.name for path in (out / "checkpoints").iterdir())


@pytest.fixture
def saved(alone, tmp_path):
    save_steps(tmp_path, 7)
    return Checkpoint(tmp_path / "checkpoints" / "step_000007")


def test_what_is_saved_is_found(alone, tmp_path):
    assert latest(tmp_path) is None
    save_steps(tmp_path, 20, 40)
    found = latest(tmp_path)
    assert (found.step, found.folder.name) == (40, "step_000040")
    assert found.trainer_state() == {"step": 40, "prompts": {"position": 320}}
    found.verify()
    assert kept(tmp_path) == ["latest", "step_000020", "step_000040"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(alone, tmp_path, keep):
    save_steps(tmp_path, 1, 2, 3, 4, keep=keep)
    assert kept(tmp_path) == ["latest", *[f"step_{n:06d}" for n in range(5 - keep, 5)]]


def test_after_going_back_the_new_checkpoint_is_not_the_one_that_goes(alone, tmp_path):
    """Someone points `latest` at an earlier checkpoint; what is saved from there on must survive later ones."""
    save_steps(tmp_path, 20, 40)
    (tmp_path / "checkpoints" / "latest").write_text("step_000020\n")
    save_steps(tmp_path, 30, keep=1)
    assert latest(tmp_path).step == 30
    latest(tmp_path).verify()
    assert "step_000020" not in kept(tmp_path)


def test_a_checkpoint_may_be_saved_again(alone, tmp_path):
    """An attempt was cut off before `latest` moved: its folder is replaced, not mixed with the new one."""
    save_steps(tmp_path, 20)
    stale = tmp_path / "checkpoints" / "step_000040"
    stale.mkdir()
    (stale / "stale").write_text("x")
    save_steps(tmp_path, 40)
    assert not (stale / "stale").exists()
    latest(tmp_path).verify()


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (RuntimeError("boom"), RuntimeError),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFullError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_save_leaves_the_earlier_ones(alone, tmp_path, failure, raised):
    save_steps(tmp_path, 20)
    with pytest.raises(raised) as caught:
        save_steps(tmp_path, 40, keep=1, actor=FakeActor(failure))
    assert raised is not DiskFullError or "step_000040" in str(caught.value)
    assert kept(tmp_path) == ["latest", "step_000020"]
    assert latest(tmp_path).step == 20
    latest(tmp_path).verify()


def test_a_kill_before_latest_moves_changes_nothing(alone, tmp_path, monkeypatch):
    save_steps(tmp_path, 20)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "atomic_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_steps(tmp_path, 40, keep=1)
    assert latest(tmp_path).step == 20
    latest(tmp_path).verify()
    monkeypatch.undo()
    save_steps(tmp_path, 40, keep=1)
    assert kept(tmp_path) == ["latest", "step_000040"]


def test_latest_of_something_that_is_gone(saved, tmp_path):
    shutil.rmtree(saved.folder)
    with pytest.raises(UserError, match=r"latest names step_000007, which is gone"):
        latest(tmp_path)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["actor/weights", "actor/rng", "trainer.json"])
@pytest.mark.parametrize("where", [0, -1])
def test_a_changed_byte_is_found(saved, name, where):
    path = saved.folder / name
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        saved.verify()
    assert f"{path} was changed since it was saved" in str(caught.value)
    assert "Choose another checkpoint" in str(caught.value)


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1], lambda data: b""])
def test_a_changed_length_is_found(saved, change):
    path = saved.folder / "actor" / "weights"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path} was changed"):
        saved.verify()


@pytest.mark.parametrize("name", ["actor/weights", "actor/rng", "trainer.json"])
def test_a_missing_file_is_named(saved, name):
    (saved.folder / name).unlink()
    with pytest.raises(UserError, match=f"{saved.folder / name} is missing"):
        saved.verify()


def test_a_checkpoint_without_its_manifest(saved):
    (saved.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=f"{saved.folder} has no manifest.json"):
        saved.verify()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": []}', '{"files": null}', "\udcff"])
def test_a_manifest_that_is_none(saved, content):
    path = saved.folder / "manifest.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=f"{path} was changed"):
        saved.verify()


def test_any_changed_byte_of_the_manifest_is_found_or_harmless(saved):
    """Harmless is what does not touch the list of files: then every file is still what it was."""
    path = saved.folder / "manifest.json"
    content = path.read_bytes()
    files = json.loads(content)["files"]
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 4
        path.write_bytes(changed)
        try:
            saved.verify()
        except UserError as error:
            assert str(saved.folder) in str(error)
        else:
            assert json.loads(changed)["files"] == files


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners here")
def test_somebody_elses_checkpoint(saved, monkeypatch):
    """Its metadata is a pickle: loading it would run what somebody else wrote. Root's files are trusted."""
    owner = (saved.folder / "manifest.json").stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1000)
    if owner == 0:
        real = os.stat
        nobody = real(saved.folder / "manifest.json")
        monkeypatch.setattr(
            type(saved.folder), "stat", lambda self, **_: os.stat_result([*nobody[:4], 4242, *nobody[5:]])
        )
    with pytest.raises(UserError, match="belongs to another user"):
        saved.verify()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["trainer.json", "actor/weights", "actor", ".", "manifest.json"])
def test_one_file_or_folder_that_is_somebody_elses(saved, name):
    """Also with the content that was saved: whose it is may change it after the check."""
    os.chown(saved.folder / name, 12345, -1)
    with pytest.raises(UserError) as refused:
        saved.verify()
    assert str(refused.value) == (
        f"{saved.folder / name} belongs to another user (id 12345; allowed: 0). Copy {saved.folder} if you trust it; "
        "checkpoints hold pickles."
    )


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives files away")
def test_files_of_root_are_trusted_beside_ones_own(saved, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    os.chown(saved.folder / "actor" / "weights", 12345, -1)
    saved.verify()
    os.chown(saved.folder / "actor" / "weights", 12346, -1)
    with pytest.raises(UserError, match="id 12346; allowed: 0 and 12345"):
        saved.verify()


@pytest.fixture
def four(alone, tmp_path):
    save_steps(tmp_path, 10, 20, 30, 40)
    return tmp_path


def folder(out, step):
    return out / "checkpoints" / f"step_{step:06d}"


DAMAGE = {
    "a changed file": lambda path: (path / "actor" / "weights").write_bytes(b"x"),
    "a missing file": lambda path: (path / "actor" / "rng").unlink(),
    "an unreadable manifest": lambda path: (path / "manifest.json").write_text("{"),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_newest_whole_one(four, capsys, damage):
    DAMAGE[damage](folder(four, 40))
    assert newest_whole(four).step == 30
    (line,) = capsys.readouterr().err.splitlines()
    assert "WARNING" in line and str(folder(four, 40)) in line and str(folder(four, 30)) in line
    (folder(four, 30) / "actor" / "weights").write_bytes(b"y")
    assert newest_whole(four).step == 20


def test_whole_checkpoints_are_taken_without_a_word(four, capsys):
    assert newest_whole(four).step == 40
    (four / "checkpoints" / "latest").write_text("step_000020\n")
    assert newest_whole(four).step == 20
    DAMAGE["no folder"](folder(four, 20))
    assert capsys.readouterr().err == ""
    assert newest_whole(four).step == 10  # what is later than `latest` counts for nothing


@pytest.mark.parametrize("name", ["", "step_", "../elsewhere", "best", "\0"])
def test_latest_that_names_nothing(four, capsys, name):
    (four / "checkpoints" / "latest").write_text(name)
    assert newest_whole(four).step == 40
    assert repr(name) in capsys.readouterr().err
    assert not is_finished(four, 1)


def test_no_whole_checkpoint_at_all(alone, tmp_path):
    assert newest_whole(tmp_path) is None
    save_steps(tmp_path, 10, 20)
    for step in (10, 20):
        DAMAGE["a changed file"](folder(tmp_path, step))
    with pytest.raises(UserError, match="No checkpoint in") as caught:
        newest_whole(tmp_path)
    assert str(folder(tmp_path, 10)) in str(caught.value) and str(folder(tmp_path, 20)) in str(caught.value)


def test_a_run_is_finished_when_its_last_checkpoint_is_whole(four):
    assert [is_finished(four, steps) for steps in (30, 40, 41)] == [True, True, False]
    DAMAGE["a missing file"](folder(four, 40))
    assert not is_finished(four, 40)
    with pytest.raises(DamagedError):
        latest(four).verify()


def test_leftovers_of_a_killed_run_are_cleared(four):
    root = four / "checkpoints"
    (root / ".step_000050.tmp" / "state").mkdir(parents=True)
    (root / ".latest.123.tmp").write_text("step_0")
    checkpoints.clear_unfinished(four)
    assert kept(four) == ["latest", *[f"step_0000{n}" for n in (10, 20, 30, 40)]]


def test_pointers_are_found(four):
    root = four / "checkpoints"
    assert checkpoints.find_pointed(root / "latest") == folder(four, 40)
    assert checkpoints.find_pointed(root / "step_000010") is None
    assert checkpoints.find_pointed(four) is None
    with pytest.raises(ConfigError, match="no best checkpoint"):
        checkpoints.find_pointed(root / "best")
    (root / "best").write_text("step_000020\n")
    assert checkpoints.find_pointed(root / "best") == folder(four, 20)
