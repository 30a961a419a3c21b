"""The watcher of a rank, with a real child: every way in which it ends, and what is written down of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from submit_helpers import attempt, end, settled_config

from conf.cluster import ClusterConfig
from conf.compose import to_yaml
from crossthink.errors import ConfigError
from crossthink.procs import free_port
from slurm import places
from slurm import watch as watch_module
from slurm.attempt import CLUSTER, CURRENT, STOP, Attempt, End
from slurm.submit import training
from slurm.watch import Watched, child_environment, watch

CHILD = """
import os, signal, sys, time
from pathlib import Path

from recipes.rl.stop import StopRequest
from recipes.signs_of_life import beat, show_stack_when_asked

folder = Path(sys.argv[1])
def say(what):
    (folder / what).touch()

def wait_for_ever():
    while True:
        time.sleep(0.05)

def stuck_in_here():
    time.sleep(600)

def exits():
    print("some last words", flush=True)
    sys.exit(int(os.environ["CHILD_CODE"]))

def kills_itself():
    os.kill(os.getpid(), signal.SIGSEGV)

def listens_late():
    say("ready")
    while not (folder / "told").exists():
        time.sleep(0.02)
    time.sleep(0.3)  # a SIGTERM that came so far was ignored
    with StopRequest() as stop:
        while not stop.requested:
            time.sleep(0.02)
    sys.exit(75)

def hangs():
    show_stack_when_asked()
    beat()
    stuck_in_here()

def stops_itself():
    show_stack_when_asked()
    beat()
    os.kill(os.getpid(), signal.SIGSTOP)
    wait_for_ever()

def never_beats():
    show_stack_when_asked()
    stuck_in_here()

def beats_slowly():
    for _ in range(12):
        beat()
        time.sleep(0.5)

def waits():
    say("ready")
    wait_for_ever()

globals()[os.environ["CHILD_DOES"]]()
"""
LIMIT_S = 60

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A task ignores signals from its start, as its children do then; this process gets its own handlers back."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR1, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Rank 2 of 4 on a node of two, whose child does what CHILD_DOES says."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "watched_child.py").write_text(CHILD)
    run = tmp_path / "run"
    run.mkdir()
    for name, value in {
        "PYTHONPATH": f"{tmp_path / 'modules'}{os.pathsep}{Path(__file__).parents[2]}",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURMD_NODENAME": "n7",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(watch_module, "CHILDREN", {"rank": "watched_child"})
    monkeypatch.setattr(watch_module, "POLL_S", 0.05)
    monkeypatch.setattr(watch_module, "GRACE_S", 0.2)
    return Watched("rank", run, attempt(run, "7.0"), ClusterConfig(name="test"), "10.0.0.1")


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the child does."""

    def does(what: str, code: int = 0) -> None:
        monkeypatch.setenv("CHILD_DOES", what)
        monkeypatch.setenv("CHILD_CODE", str(code))

    return does


def the_end(watched: Watched) -> End:
    [found] = watched.now.ends()
    return found


def once_ready(watched: Watched, *acts: Callable[[], object]) -> threading.Thread:
    """Do something beside `watch`, one thing after the other, when the child says that it is ready."""

    def work() -> None:
        limit = time.monotonic() + LIMIT_S
        while not (watched.run / "ready").exists():
            assert time.monotonic() < limit, "the child did not come up"
            time.sleep(0.02)
        for act in acts:
            act()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_its_exit_code_is_the_childs(watched: Watched, child: Callable[..., None], code: int) -> None:
    child("exits", code)
    assert watch(watched) == code
    found = the_end(watched)
    assert (found.task, found.node, found.code) == ("rank_2", "n7", code)
    assert (found.hung, found.followed) == (False, False)
    assert found.said == ("" if code == 0 else "some last words")
    assert "some last words" in watched.log.read_text()


def test_a_signal_that_ended_the_child_is_told_from_a_code(watched: Watched, child: Callable[..., None]) -> None:
    child("kills_itself")
    assert watch(watched) == 128 + signal.SIGSEGV
    assert the_end(watched).code == -signal.SIGSEGV and not the_end(watched).followed


def test_the_stop_file_is_passed_on_until_the_child_listens(watched: Watched, child: Callable[..., None]) -> None:
    child("listens_late")
    stopper = once_ready(watched, (watched.now.folder / STOP).touch, (watched.run / "told").touch)
    assert watch(watched) == 75
    stopper.join()
    assert (the_end(watched).code, the_end(watched).followed) == (75, False)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_the_task_is_passed_on(
    watched: Watched, child: Callable[..., None], number: signal.Signals
) -> None:
    child("listens_late")
    sender = once_ready(watched, lambda: os.kill(os.getpid(), number), (watched.run / "told").touch)
    assert watch(watched) == 75
    sender.join()
    assert the_end(watched).code == 75


@pytest.mark.parametrize("what", ["hangs", "stops_itself"])
def test_a_child_that_hangs_shows_its_stack_and_is_ended(
    watched: Watched, child: Callable[..., None], what: str
) -> None:
    watched.cluster.hang_s = 1.0
    child(what)
    assert watch(watched) == 128 + signal.SIGKILL
    found = the_end(watched)
    assert (found.code, found.hung, found.followed) == (-signal.SIGKILL, True, False)
    log = watched.log.read_text()
    assert re.search(r"rank_2: no sign of life for \d+ s \(cluster.hang_s\)", log)
    assert f"in {'stuck_in_here' if what == 'hangs' else 'stops_itself'}\n" in log  # lines of faulthandler
    assert "most recent call first" in found.said


def test_before_its_first_sign_of_life_a_child_has_the_time_of_the_servers_too(
    watched: Watched, child: Callable[..., None]
) -> None:
    watched.cluster.hang_s, watched.cluster.ready_s = 0.5, 5.5
    child("never_beats")
    assert watch(watched) == 128 + signal.SIGKILL
    assert the_end(watched).hung
    [silent_s] = re.findall(r"no sign of life for (\d+) s", watched.log.read_text())
    assert int(silent_s) >= 6


def test_signs_of_life_are_heard(watched: Watched, child: Callable[..., None]) -> None:
    watched.cluster.hang_s = 4.0
    child("beats_slowly")  # for six seconds
    assert watch(watched) == 0 and not the_end(watched).hung


def test_a_superseded_attempt_ends_at_once(watched: Watched, child: Callable[..., None]) -> None:
    child("waits")
    other = once_ready(watched, lambda: (watched.run / CLUSTER / CURRENT).write_text("7.1\n"))
    assert watch(watched) == 128 + signal.SIGKILL
    other.join()
    assert (the_end(watched).followed, the_end(watched).hung) == (True, False)
    assert "a later attempt of the run has begun" in watched.log.read_text()


def test_when_another_rank_fails_this_one_ends_too(watched: Watched, child: Callable[..., None]) -> None:
    child("waits")
    other = once_ready(watched, lambda: watched.now.ended(end("rank_3", -9)))
    assert watch(watched) == 128 + signal.SIGKILL
    other.join()
    [mine] = [one for one in watched.now.ends() if one.task == "rank_2"]
    assert (mine.followed, mine.hung) == (True, False)
    assert "rank_3 on node-rank_3 ended with code -9" in mine.said


def test_what_is_no_failure_of_another_rank(watched: Watched, child: Callable[..., None]) -> None:
    watched.now.ended(end("rank_0", 0))
    watched.now.ended(end("rank_1", 75))
    watched.now.ended(end("rollout_0", 1))
    watched.cluster.hang_s = 60
    child("beats_slowly")
    assert watch(watched) == 0
    assert "ended with code" not in watched.log.read_text()


def test_a_rank_has_its_own_last_words_before_it_is_ended(
    watched: Watched, child: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that ends by itself within the grace counts as its own end, which says more."""
    monkeypatch.setattr(watch_module, "GRACE_S", LIMIT_S)
    watched.now.ended(end("rank_3", 1))
    child("exits", 1)
    assert watch(watched) == 1
    [mine] = [one for one in watched.now.ends() if one.task == "rank_2"]
    assert not mine.followed
    assert "some last words" in mine.said.splitlines()  # the watcher's note of rank_3 may come behind them


def test_the_environment_of_a_rank(watched: Watched) -> None:
    given = {
        "PATH": "/bin", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "9", "SLURMD_NODENAME": "n7",
        "SRUN_DEBUG": "3", "SBATCH_X": "1", "PMI_RANK": "1", "PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1",
        "PYXIS_RUNTIME_PATH": "/", "CUDA_VISIBLE_DEVICES": "0,1", "CROSSTHINK_JOB_END": "5", "RANK": "77",
        "NCCL_DEBUG": "WARN",
    }  # fmt: skip
    watched.cluster.interface = "ib0"
    watched.cluster.ready_s, watched.cluster.hang_s = 40.0, 7.0
    made = child_environment(watched, given, 9)
    assert made == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "CROSSTHINK_JOB_END": "5",
        "NCCL_DEBUG": "WARN",
        "GOMP_SPINCOUNT": "10000",
        "GLOO_SOCKET_IFNAME": "ib0",
        "NCCL_SOCKET_IFNAME": "ib0",
        "RANK": "2",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "CROSSTHINK_RENDEZVOUS": str(watched.now.folder / "rendezvous.json"),
        "CROSSTHINK_HOST": "10.0.0.1",
        "CROSSTHINK_PARENT": str(os.getpid()),
        "CROSSTHINK_ALIVE_FD": "9",
        "CROSSTHINK_SILENCE_S": "47.0",  # until its first sign of life; the collectives of ranks wait longer
    }
    watched.cluster.interface = None
    assert not any("IFNAME" in name for name in child_environment(watched, given, 9))
    assert child_environment(watched, {**given, "GOMP_SPINCOUNT": "0"}, 9)["GOMP_SPINCOUNT"] == "0"
    watched.cluster.cpus_per_task = 7
    assert child_environment(watched, given, 9)["CROSSTHINK_THREADS"] == "7"


def critic_with(watched: Watched, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, str]:
    """The environment of the critic's first rank in a run with these settings."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    made = settled_config(watched.run, "algorithm=ppo", "actor=aligner", *words)
    (watched.run / "config.yaml").write_text(to_yaml(training(made)))
    return child_environment(replace(watched, role="critic"), {"SLURM_STEP_NUM_TASKS": "4"}, 9)


def test_the_critics_threads_and_port_are_the_users(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "threads_each", {2: 16}.__getitem__)
    made = critic_with(watched, monkeypatch)
    assert made["OMP_NUM_THREADS"] == "16" and int(made["CROSSTHINK_CRITIC_PORT"]) > 1023
    assert made["CROSSTHINK_RENDEZVOUS"].endswith("rendezvous_critic.json")
    port = free_port()
    made = critic_with(watched, monkeypatch, "actor.threads=3", f"critic.port={port}")
    assert (made["OMP_NUM_THREADS"], made["CROSSTHINK_CRITIC_PORT"]) == ("3", str(port))


def test_a_critics_port_that_another_program_has(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"critic.port={port} cannot be had on 127.0.0.1"):
            critic_with(watched, monkeypatch, f"critic.port={port}")


def test_the_child_sees_nothing_of_slurm(watched: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watch_module, "CHILDREN", {"rank": "shows_environment"})
    (tmp_path / "modules" / "shows_environment.py").write_text(
        "import os, sys\nprint(*sorted(os.environ), sep='\\n')\nos.fstat(int(os.environ['CROSSTHINK_ALIVE_FD']))\n"
    )
    assert watch(watched) == 0
    names = watched.log.read_text().splitlines()
    assert "RANK" in names and not [name for name in names if name.startswith(("SLURM", "PMI"))]


def test_an_attempt_knows_itself_and_its_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = attempt(tmp_path, "7.0")
    monkeypatch.setenv("CROSSTHINK_ATTEMPT", str(now.folder))
    assert Attempt.from_environment() == now and now.is_current() and not now.is_over() and not now.must_stop()
    later = attempt(tmp_path, "7.1")
    assert later.is_current() and not now.is_current()
    assert Attempt.current(tmp_path) == later and Attempt.current(tmp_path / "other") is None
    assert later.is_wanted() and not now.is_wanted()
    (later.folder / "over").touch()
    assert later.is_over() and not later.is_wanted()
    assert now.published("reward_0") is None
    now.publish("reward_0", "http://n1:5")
    assert (now.published("reward_0"), later.published("reward_0")) == ("http://n1:5", None)
