"""A `crossthink synth` that is killed gives the rows of one that was not, and asks nothing twice that was stored."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytest.importorskip("datatrove")
pytest.importorskip("openai")
from process_helpers import command_line, still_running
from synth_brain import BRAIN, SHARES
from synth_endpoint import Running, synth_endpoint
from synth_foretold import Expected
from synth_helpers import MATH_FILE, QA_FILE, foretold, heard, math_words, qa_words
from synth_world import crawl
from train_helpers import started, succeed

from crossthink.errors import EXIT_RESUMABLE

pytestmark = pytest.mark.timeout(600)

GONE_LIMIT_S = 30.0
WAIT_S = 240.0
SLOTS = 2 * 2 * 16
"""Calls that can be under way: two tasks, a writer and a solver in each, `concurrency` of each."""


def stored(out: Path) -> Counter[str]:
    """Keys of the answers that are stored, with how many tasks have them. No process may have a store open."""
    found = Counter[str]()
    for path in sorted((out / "answers").glob("*.sqlite")):
        with contextlib.closing(sqlite3.connect(path)) as file:
            found.update(key for (key,) in file.execute("SELECT key FROM answers"))
    return found


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after the endpoint has heard so many requests of this start, or a stage ended."""

    lines: int = 0
    extra_s: float = 0.0
    ended: str = ""

    def reached(self, out: Path, heard_now: int) -> bool:
        if self.ended:
            return len(list((out / "logs" / self.ended / "completions").glob("*"))) >= 2
        return heard_now >= self.lines


@dataclass(frozen=True)
class Killed:
    """What stood where when a run was killed."""

    stored: Counter[str]
    heard: Counter[str]


def kill_at(words: list[str], out: Path, server: Running, moment: Moment) -> Killed:
    """Start a run and kill its command at a moment, before which it must not end."""
    before = len(server.lines())
    with started(*words) as process:
        end = time.monotonic() + WAIT_S
        while process.poll() is None and not moment.reached(out, len(server.lines()) - before):
            assert time.monotonic() < end, f"{moment} has not come"
            time.sleep(0.01)
        time.sleep(moment.extra_s)
        assert process.poll() is None, f"the run had ended before {moment}: {process.communicate()[1]}"
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGKILL)
    # The stage has a session of its own: the kernel ends it and every process that it has started.
    assert not list(map(command_line, still_running(family, GONE_LIMIT_S)))
    heard_then = heard(server)
    time.sleep(0.2)
    assert heard(server) == heard_then, "somebody still asks"
    return Killed(stored(out), heard_then)


def check(killed: list[Killed], expected: Expected, end: Counter[str]) -> None:
    """What was stored was never asked again, and what was asked again was under way when the run was killed."""
    in_flight = 0
    for one in killed:
        known = Counter({expected.stored[key]: tasks for key, tasks in one.stored.items()})
        whole = {key for key, tasks in known.items() if tasks == expected.tasks[key]}
        assert all(end[key] == one.heard[key] for key in whole)
        now = sum(tasks - known[key] for key, tasks in expected.tasks.items() if one.heard[key])
        assert now <= SLOTS
        in_flight += now
    repeated = {key: end[key] - expected.lines[key] for key in end}
    assert set(end) == set(expected.lines) and min(repeated.values()) >= 0
    assert sum(repeated.values()) <= in_flight


def run_kills(words: list[str], again: list[str], out: Path, server: Running, moments: list[Moment]) -> list[Killed]:
    """Kill a run again and again, then let it end."""
    found = []
    for number, moment in enumerate(moments):
        found.append(kill_at(again if number and (out / "synth.yaml").is_file() else words, out, server, moment))
    succeed(*again, limit_s=400)
    return found


def test_killed_while_it_asks(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path, brain=BRAIN, shares=SHARES, delay_s=0.1) as server:
        words = math_words(tmp_path / "killed", server.url, 40)
        moments = [Moment(60), Moment(70)]
        killed = run_kills(words, [*words, "resume=true"], tmp_path / "killed", server, moments)
        assert all(one.stored for one in killed)
        expected, end = foretold(tmp_path / "killed", SHARES), heard(server)
        check(killed, expected, end)
        succeed(*math_words(tmp_path / "straight", server.url, 40))
    rows = (tmp_path / "killed" / MATH_FILE).read_bytes()
    assert rows == (tmp_path / "straight" / MATH_FILE).read_bytes() and rows


def test_asked_to_stop_it_says_how_to_go_on(tmp_path: Path) -> None:
    with synth_endpoint(tmp_path, brain=BRAIN, shares=SHARES, delay_s=0.1) as server:
        with started(*math_words(tmp_path / "out", server.url, 40)) as process:
            while process.poll() is None and len(server.lines()) < 60:
                time.sleep(0.01)
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            _, said = process.communicate(timeout=WAIT_S)
            assert process.returncode == EXIT_RESUMABLE, said
            assert "stopped in stage questions" in said and "resume=true" in said
        _, left = psutil.wait_procs(family, GONE_LIMIT_S)
        assert family and not left
    assert stored(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_ten_moments(tmp_path: Path) -> None:
    """While pages are read, while questions are asked for and solved, and while the rows are written."""
    world = crawl(tmp_path / "crawl")
    draw = random.Random(0)
    moments = [
        *(Moment(0, draw.uniform(0.5, 6.0)) for _ in range(2)),
        Moment(ended="pages"),
        *(Moment(lines, draw.uniform(0.0, 0.3)) for lines in draw.sample(range(1, 60), 6)),
        Moment(ended="questions"),
    ]
    with synth_endpoint(tmp_path, brain=BRAIN, shares=SHARES, delay_s=0.2) as server:
        out = tmp_path / "killed"
        words = qa_words(out, server.url, world.folder)
        killed = run_kills(words, [*words, "resume=true"], out, server, moments)
        check(killed, foretold(out, SHARES, world), heard(server))
        stored_then = [one.stored.total() for one in killed]
        print(f"{len(killed)} kills; stored then: {stored_then}; heard: {[one.heard.total() for one in killed]}")
        succeed(*qa_words(tmp_path / "straight", server.url, world.folder), limit_s=400)
    rows = (out / QA_FILE).read_bytes()
    assert rows == (tmp_path / "straight" / QA_FILE).read_bytes() and rows
