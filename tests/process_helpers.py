"""Other processes, which may end while a test looks at them: psutil then raises, wherever it was."""

from __future__ import annotations

import time
from collections.abc import Iterable
from subprocess import Popen

import psutil


def runs(process: psutil.Process | int) -> bool:
    """Whether a process, or that of this id, is there and no zombie."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    """The words that it was started with; none where it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie's, too
        return []


def descendants(process: Popen, word: str) -> list[psutil.Process]:
    """Processes below this one that were started with `word` among their words."""
    return [one for one in psutil.Process(process.pid).children(recursive=True) if word in command_line(one)]


def still_running(processes: Iterable[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """Those that run when so many seconds are over; returns at once when none does."""
    until, left = time.monotonic() + limit_s, list(processes)
    while (left := [one for one in left if runs(one)]) and time.monotonic() < until:
        time.sleep(0.02)
    return left
