"""Children that end with their parent, and ways to end them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from crossthink import procs
from crossthink.procs import die_with_parent, free_port, stop

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")

CHILD = """
import os, time
from crossthink.procs import die_with_parent
{call}
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(60)
"""


@contextlib.contextmanager
def family(call):
    """A parent whose child runs `call` first: yields the parent's process and the child's id.

    The child holds the write end of the parent's output: it reads as ended when both are gone.
    """
    script = CHILD.format(call=call)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, script], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    try:
        yield parent, child
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


@linux
def test_a_child_dies_with_its_killed_parent():
    with family("die_with_parent(os.getppid())") as (parent, _):
        assert parent.poll() is None
        parent.send_signal(signal.SIGKILL)
        parent.communicate(timeout=10)  # ends only when the child has gone too


@linux
def test_without_it_the_child_would_live_on():
    """What the test above would look like if it could not fail."""
    with family("pass") as (parent, child):
        parent.send_signal(signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            parent.communicate(timeout=0.5)
        os.kill(child, signal.SIGKILL)
        parent.communicate(timeout=10)


@linux
def test_a_parent_that_is_already_gone():
    """Between fork and prctl the parent may die: then no signal would ever come."""
    script = "from crossthink.procs import die_with_parent; die_with_parent(1 << 30); print('alive')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


@linux
@pytest.mark.parametrize("generations", [1, 2])
def test_a_fork_whose_parent_dies_before_it_asked_for_the_signal(generations):
    """As when a worker is ended while it starts an extractor: that one would wait for it for ever."""
    script = f"""
import os, time
from crossthink.procs import forks_die_with_parent

def orphaned():
    if generation == {generations}:
        while os.getppid() == forking:
            time.sleep(0.01)

generation = 0
os.register_at_fork(after_in_child=orphaned)
forks_die_with_parent()
while generation < {generations}:
    generation, forking = generation + 1, os.getpid()
    if child := os.fork():
        if generation < {generations}:
            os.waitpid(child, 0)
        os._exit(0)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@linux
def test_a_child_dies_with_the_parent_that_it_is_told():
    script = "from crossthink.procs import die_with_told_parent; die_with_told_parent(); print('alive')"

    def says(parent):
        environment = {name: value for name, value in os.environ.items() if name != procs.PARENT}
        environment |= {} if parent is None else {procs.PARENT: str(parent)}
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment).stdout

    assert says(None) == says(os.getpid()) == "alive\n"
    assert says(1 << 30) == ""


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(procs.sys, "platform", "darwin")
    die_with_parent(1 << 30)


def test_a_free_port_can_be_bound():
    port = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))


def waiting(script):
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


TERM_ENDS_IT = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print(flush=True); time.sleep(60)"
TERM_IS_IGNORED = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    ("script", "grace_s", "code"), [(TERM_ENDS_IT, 10.0, 7), (TERM_IS_IGNORED, 0.2, -signal.SIGKILL)]
)
def test_stop(script, grace_s, code):
    with waiting(script) as process:
        began = time.monotonic()
        assert stop(process, grace_s) == code
        assert stop(process, grace_s) == code  # a second time changes nothing
        assert time.monotonic() - began < 8


def test_stop_tells_the_code_of_one_that_has_ended():
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(3)"]) as process:
        process.wait(10)
        assert stop(process) == 3
