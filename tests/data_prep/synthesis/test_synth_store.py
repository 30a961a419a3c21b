"""The store of answers: what goes in comes out, for one process at a time, and damage is named."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import UserError
from data_prep.synthesis.calls.request import LATE, REASONS, Failed, Reply, Usage
from data_prep.synthesis.calls.store import VERSION, AnswerStore

pytestmark = pytest.mark.timeout(60)
KEYS = st.sampled_from("abcde")
COUNTS = st.integers(0, 10**9)
WRITABLE = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
REPLIES = st.builds(Reply, WRITABLE, st.just("m"), st.builds(Usage, st.just(1), COUNTS, COUNTS))
OUTCOMES = REPLIES | st.builds(Failed, st.sampled_from(REASONS), WRITABLE)


def put(store: AnswerStore, key: str, outcome: Reply | Failed, purpose: str = "p") -> None:
    used = outcome.usage if isinstance(outcome, Reply) else Usage(1, 2, 3)
    store.put(key, purpose, "m", outcome, used, 0.5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(KEYS, OUTCOMES, st.sampled_from(["p", "q"])), max_size=12), st.sets(KEYS))
def test_the_last_outcome_of_each_key_and_the_sum_of_all(tmp_path_factory, written, forgotten) -> None:
    path = tmp_path_factory.mktemp("store") / "answers.sqlite"
    known, spent = {}, {}
    with AnswerStore(path) as store:
        for key, outcome, purpose in written:
            put(store, key, outcome, purpose)
            used = outcome.usage if isinstance(outcome, Reply) else Usage(1, 2, 3)
            known[key], spent[purpose] = outcome, spent.get(purpose, Usage()) + used
        store.charge("late", Usage(1, 5, 6))
        store.forget(forgotten)
    with AnswerStore(path) as store:
        kept = {key: outcome for key, outcome in known.items() if key not in forgotten}
        assert {key: store.get(key) for key in "abcde"} == {key: kept.get(key) for key in "abcde"}
        assert len(store) == len(kept) and store.spent() == {**spent, "late": Usage(1, 5, 6)}
    assert [one.name for one in path.parent.iterdir()] == [path.name]


HOLD = """
import sys, time
from data_prep.synthesis.calls.request import Failed, Usage
from data_prep.synthesis.calls.store import AnswerStore
with AnswerStore(sys.argv[1]) as store:
    for number in range(3):
        store.put(str(number), "p", "m", Failed("late", "x"), Usage(1, 1, 1), 0.0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_the_lock_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="answers.sqlite is in use by another process"), AnswerStore(path):
            pass
        other.send_signal(signal.SIGKILL)
    with AnswerStore(path) as store:
        assert len(store) == 3 and store.get("1") == Failed(LATE, "x") and store.spent() == {"p": Usage(3, 3, 3)}
        with pytest.raises(UserError, match="in use"), AnswerStore(path):  # nor twice in one process
            pass
        assert len(store) == 3


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"not a database, but long enough to be one\n" * 100)
    with pytest.raises(UserError, match="answers.sqlite is damaged"), AnswerStore(path):
        pass
    path.unlink()
    with AnswerStore(path) as store:
        for number in range(300):
            put(store, str(number), Reply("long " * 100, "m", Usage(1, 1, 1)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="answers.sqlite is damaged"), AnswerStore(path) as store:
        for number in range(300):
            store.get(str(number))


def test_a_file_of_another_version_or_program_is_left_alone(tmp_path: Path) -> None:
    newer, others = tmp_path / "newer.sqlite", tmp_path / "others.sqlite"
    with AnswerStore(newer) as store:
        put(store, "a", Failed(LATE, "x"))
    for path, statement in ((newer, f"PRAGMA user_version = {VERSION + 1}"), (others, "CREATE TABLE theirs (a)")):
        file = sqlite3.connect(path)
        file.execute(statement)
        file.close()
        with pytest.raises(UserError, match=f"{path.name} is no store of answers of version {VERSION}"):
            AnswerStore(path).__enter__()
    file = sqlite3.connect(others)
    assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    file.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be used as a store"), AnswerStore(tmp_path / "shut" / "a.sqlite"):
        pass
