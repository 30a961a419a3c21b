"""Chains of commands in processes of their own."""

from __future__ import annotations

import pytest

from crossthink.errors import EXIT_RESUMABLE
from recipes.run_files import tail
from recipes.sweeping.jobs import Chain, Command, exit_code, run_chains

pytestmark = pytest.mark.timeout(300)


def command(folder, *words):
    return Command(words, folder, lambda: False)


def chain(folder, name, *commands):
    return Chain(name, commands, folder / f"{name}.log")


def test_a_chain_that_fails_ends_no_other(tmp_path):
    said = []
    good = chain(tmp_path, "good", command(tmp_path / "x", "--version"), command(tmp_path / "x", "--help"))
    bad = chain(tmp_path, "bad", command(tmp_path / "x", "nonsense"), command(tmp_path / "x", "--version"))
    codes = run_chains([bad, good], 2, lambda: False, said.append)
    assert codes == {"bad": 2, "good": 0}
    assert "is not a command" in tail(bad.log) and any("bad ended with 2" in line for line in said)
    assert "crossthink COMMAND" in good.log.read_text()
    assert bad.log.read_text().count("\n") == 1  # nothing ran behind the failure


def test_what_is_done_is_not_run_again(tmp_path):
    done = Command(("nonsense",), tmp_path, lambda: True)
    assert run_chains([chain(tmp_path, "one", done)], 1, lambda: False, lambda said: None) == {"one": 0}
    assert not (tmp_path / "one.log").exists()


def test_a_folder_with_something_in_it_is_gone_on_with(tmp_path):
    one = command(tmp_path / "run", "train")
    assert one.line() == ["train"]
    (tmp_path / "run").mkdir()
    assert one.line() == ["train"]
    (tmp_path / "run" / "config.yaml").touch()
    assert one.line() == ["train", "resume=true"]


def test_a_stop_reaches_the_running_and_keeps_the_waiting(tmp_path):
    server = ("serve-reward", "port=0", "workers=1", "warm_up=false")
    first = chain(tmp_path, "first", command(tmp_path / "x", *server), command(tmp_path / "x", "--version"))
    waiting = chain(tmp_path, "waiting", command(tmp_path / "x", "--version"))
    codes = run_chains([first, waiting], 1, lambda: "http://" in tail(first.log), lambda said: None)
    assert codes["waiting"] == EXIT_RESUMABLE and codes["first"] != 0
    assert not (tmp_path / "waiting.log").exists()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [({}, 0), ({"a": 0}, 0), ({"a": 0, "b": 75}, 75), ({"a": 75, "b": 1}, 1), ({"a": 2}, 1), ({"a": 137, "b": 75}, 1)],
)
def test_the_exit_code_of_all(codes, expected):
    assert exit_code(codes) == expected
