"""Child processes that never outlive their parent, and ports for them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys

PARENT = "CROSSTHINK_PARENT"
"""Variable with the process id of the parent with which a child ends."""
PORT_FILE = "CROSSTHINK_PORT_FILE"
"""Variable with the path of the file into which a server writes its port once it answers."""
PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies, however the parent dies (Linux; elsewhere a no-op).

    Args:
        parent: the expected parent's process id. Where it is already gone, this process ends at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def die_with_told_parent() -> None:
    """As `die_with_parent`, with the parent that the variable `PARENT` names; without one nothing is done."""
    if parent := os.environ.get(PARENT):
        die_with_parent(int(parent))


@functools.cache
def forks_die_with_parent() -> None:
    """From now on, whatever this process or one of its forks forks does as after `die_with_parent`.

    A fork whose parent dies before it could ask for the kernel's signal ends too.
    """
    forking = [os.getpid()]

    def before() -> None:
        forking[0] = os.getpid()

    os.register_at_fork(before=before, after_in_child=lambda: die_with_parent(forking[0]))


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now. Another process may take it first: prefer binding port 0 where you can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def stop(process: subprocess.Popen, grace_s: float = 10.0) -> int:
    """End a child by its own id: SIGTERM, then SIGKILL after `grace_s` seconds. Returns its exit code."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
