"""Answers on disk: what was answered once is never asked again, whenever the process was killed."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from crossthink.errors import UserError
from crossthink.files import DiskFullError
from data_prep.synthesis.calls.request import Failed, Reply, Usage

VERSION = 1
"""Of the tables, in SQLite's user_version."""
TABLES = """
CREATE TABLE answers (
    key TEXT PRIMARY KEY, purpose TEXT NOT NULL, model TEXT NOT NULL, reason TEXT, text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, answered_at REAL NOT NULL
);
CREATE TABLE spending (
    purpose TEXT PRIMARY KEY, calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
);
"""
PUT = "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
CHARGE = """
INSERT INTO spending VALUES (?, ?, ?, ?) ON CONFLICT (purpose) DO UPDATE SET calls = calls + excluded.calls,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens
"""


class AnswerStore:
    """Replies and final failures by key, in one SQLite file with one writer; a context.

    Every answer is committed before `put` returns: a process that is killed loses what was in flight and no more, and
    a machine that loses power a few of the last answers, which are asked for again. What calls took is kept apart from
    the answers, so that an answer that is replaced or forgotten stays paid for.
    """

    def __init__(self, path: Path | str) -> None:
        """Nothing is opened yet.

        Args:
            path: the file, made where there is none.
        """
        self.path = Path(path)
        self._file: sqlite3.Connection | None = None

    def __enter__(self) -> AnswerStore:
        """Open the file and lock it for as long as this process lives.

        Raises:
            UserError: another process has it open, or it is damaged, or another version's.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._named():
            self._file = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            with self._named():
                self._lock_and_check()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def __len__(self) -> int:
        """Answers and failures."""
        with self._named():
            return self._opened.execute("SELECT count(*) FROM answers").fetchone()[0]

    def get(self, key: str) -> Reply | Failed | None:
        """What the request of this key came to; None where it is not known."""
        with self._named():
            query = "SELECT reason, text, model, prompt_tokens, completion_tokens FROM answers WHERE key = ?"
            row = self._opened.execute(query, (key,)).fetchone()
        if row is None:
            return None
        reason, text, model, prompt_tokens, completion_tokens = row
        if reason is not None:
            return Failed(reason, text)
        return Reply(text, model, Usage(1, prompt_tokens, completion_tokens))

    def put(self, key: str, purpose: str, model: str, outcome: Reply | Failed, used: Usage, seconds: float) -> None:
        """Keep an outcome, in place of an earlier one, and what it took.

        Args:
            key: of the request.
            purpose: of the request.
            model: that was asked.
            outcome: the reply or the failure.
            used: what is added to the spending.
            seconds: from the first try to the outcome.
        """
        reason, text = (outcome.reason, outcome.said) if isinstance(outcome, Failed) else (None, outcome.text)
        counts = (used.prompt_tokens, used.completion_tokens)
        with self._named(), self._transaction():
            self._opened.execute(PUT, (key, purpose, model, reason, text, *counts, seconds, time.time()))
            self._opened.execute(CHARGE, (purpose, used.calls, *counts))

    def charge(self, purpose: str, used: Usage) -> None:
        """Add what a call took that came to no outcome."""
        with self._named():
            values = (purpose, used.calls, used.prompt_tokens, used.completion_tokens)
            self._opened.execute(CHARGE, values)

    def forget(self, keys: Iterable[str]) -> None:
        """Ask these again when they are wanted again. What they took stays in the spending."""
        with self._named(), self._transaction():
            self._opened.executemany("DELETE FROM answers WHERE key = ?", [(key,) for key in keys])

    def spent(self) -> dict[str, Usage]:
        """What the calls of each purpose took, those of earlier starts included."""
        with self._named():
            rows = self._opened.execute("SELECT * FROM spending ORDER BY purpose").fetchall()
        return {purpose: Usage(*counts) for purpose, *counts in rows}

    @property
    def _opened(self) -> sqlite3.Connection:
        assert self._file is not None, "the store is not open"
        return self._file

    def _lock_and_check(self) -> None:
        """SQLite's own lock, which the kernel lifts when the process ends, however it ends.

        With the lock held from the beginning, WAL needs no memory shared with other processes, which network
        filesystems do not give.
        """
        file = self._opened
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("BEGIN EXCLUSIVE")
        version = file.execute("PRAGMA user_version").fetchone()[0]
        empty = file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if version == 0 and empty:
            for statement in TABLES.split(";"):  # executescript would commit before it begins
                file.execute(statement)
            file.execute(f"PRAGMA user_version = {VERSION}")
        elif version != VERSION:
            raise UserError(
                f"{self.path} is no store of answers of version {VERSION} (it says {version}). "
                "Choose another folder, or remove the file if its answers may be paid for again."
            )
        file.execute("COMMIT")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._opened.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
                self._opened.execute("ROLLBACK")
            raise
        self._opened.execute("COMMIT")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Turn SQLite's errors into ones that name the file. Python 3.10 tells their kinds by their words alone."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            said = str(error)
            if "locked" in said:
                raise UserError(
                    f"{self.path} is in use by another process. Two may not write to one store of answers: wait until "
                    "the other has ended, or choose another folder."
                ) from error
            if "full" in said:
                raise DiskFullError(
                    f"No space left to write {self.path} ({said}). Every answer before this one is kept. Free some "
                    "space, then run the command again."
                ) from error
            if "not a database" in said or "malformed" in said:
                raise UserError(
                    f"{self.path} is damaged ({said}). Bring it back from a copy, or remove it: then its answers are "
                    "asked for, and paid for, again."
                ) from error
            raise UserError(f"{self.path} cannot be used as a store of answers: {said}.") from error

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
