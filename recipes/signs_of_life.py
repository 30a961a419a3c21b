"""Signs of life: a rank tells whoever watches over it that it still moves, and shows its stack when it is asked."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal

ALIVE_FD = "CROSSTHINK_ALIVE_FD"
"""Names the file descriptor of a pipe that the watcher reads."""
SILENCE_S = "CROSSTHINK_SILENCE_S"
"""Names the seconds without a sign of life after which the watcher ends a rank at most: those before the first one."""
SHOW_STACK = signal.SIGUSR2


def beat() -> None:
    """Say that this process moves. Does nothing where nobody watches."""
    if ALIVE_FD in os.environ:
        # Full, or the watcher has gone: it has signs enough, or needs none.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(int(os.environ[ALIVE_FD]), b".")


def silence_s() -> float:
    """Seconds without a sign of life that the watcher allows at most, before the first; 0 where nobody watches."""
    return float(os.environ.get(SILENCE_S, "0"))


def show_stack_when_asked() -> None:
    """From now on SIGUSR2 has every thread's stack written to stderr, also where the process hangs in C."""
    faulthandler.register(SHOW_STACK, all_threads=True)
