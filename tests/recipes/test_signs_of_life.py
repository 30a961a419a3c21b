"""A rank tells its watcher that it moves, and shows its stack when it is asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from recipes.signs_of_life import ALIVE_FD, SHOW_STACK, beat

HANGS = """
import ctypes, threading
from recipes.signs_of_life import show_stack_when_asked

def waits_in_a_thread():
    threading.Event().wait()

def sleeps_in_c():
    print("ready", flush=True)
    ctypes.PyDLL(None).sleep(60)  # with the interpreter's lock held: no Python runs in this process any more

show_stack_when_asked()
threading.Thread(target=waits_in_a_thread, daemon=True).start()
sleeps_in_c()
"""


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pipe that nobody waits for, as the watcher makes it."""
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    os.set_blocking(writes, False)
    monkeypatch.setenv(ALIVE_FD, str(writes))
    yield reads, writes
    os.close(writes)


def test_a_sign_is_a_byte(pipe: tuple[int, int]) -> None:
    reads, _ = pipe
    beat()
    beat()
    assert os.read(reads, 100) == b".."
    os.close(reads)


def test_a_watcher_that_does_not_read_or_is_gone_stops_nobody(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writes, b"x" * 4096)
    beat()
    os.close(reads)
    beat()


def test_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALIVE_FD, raising=False)
    beat()


def test_it_shows_every_stack_while_it_hangs() -> None:
    with subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(SHOW_STACK)
            said = b""
            while b"in sleeps_in_c" not in said or b"in waits_in_a_thread" not in said:
                said += (line := process.stderr.readline())
                assert line, said
            assert process.poll() is None  # it only shows it
        finally:
            process.send_signal(signal.SIGKILL)
