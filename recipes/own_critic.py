"""The critic server that a run of actor=aligner with algorithm=ppo starts for itself, and ends with itself.

Its ranks are processes of their own beside the actor's, in the same layout, and on the same GPUs where there are any.
None of them is started again: a critic that has lost its weights would train another value function, so the run ends,
and goes on from its checkpoint when it is told to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from conf.train import TrainConfig
from crossthink.errors import ConfigError, UserError
from crossthink.procs import PARENT, free_port
from recipes.machine import threads
from recipes.nodes import has_critic_server
from recipes.run_files import LOGS, tail

LOOPBACK = "127.0.0.1"
PORT = "CROSSTHINK_CRITIC_PORT"
START_S = 600.0
"""Seconds until the server answers, in which its ranks load the model."""
GRACE_S = 20.0
"""Seconds for the server to end in order, and its Triton with it."""
TRITON_GRACE_S = 3.0
"""Seconds for Triton's processes where their rank has ended without stopping them."""
KILL_GRACE_S = 2.0
"""Seconds for them after each signal, where they took longer."""
TRACKER = "from multiprocessing.resource_tracker import main"
"""What Python's resource trackers run. They remove the shared memory of processes that were killed, and end."""
TRACKER_GRACE_S = 20.0
"""Seconds for them when the processes whose memory they track are gone."""
SHARED_MEMORY, TRITON_PREFIX = Path("/dev/shm"), "pytrtion"
"""Where Triton's Python backend keeps files, and how PyTriton has their names begin, before the rank's process id."""
POLL_S = 0.1


@dataclass(frozen=True)
class Critic:
    """A critic server that answers: its address, and the log of its first rank."""

    url: str
    log: str

    def last_words(self) -> str:
        """A sentence with the end of the log, for messages."""
        return f"The end of {self.log}:\n{tail(Path(self.log))}"


def check(config: TrainConfig) -> None:
    """Refuse a critic server where there can be none.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    if not has_critic_server(config):
        return
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "algorithm=ppo with actor=aligner runs on one machine, where `crossthink train` starts the ranks of actor "
            f"and critic itself, and an outside launcher has started this process (WORLD_SIZE="
            f"{os.environ['WORLD_SIZE']}). Allowed there: algorithm=grpo, or actor=megatron."
        )
    if config.critic.port is not None:
        check_free(config.critic.port)


@contextlib.contextmanager
def critic_server(config: TrainConfig, world: int) -> Iterator[Critic | None]:
    """A critic server that lives as long as the block; None where the run wants none.

    Args:
        config: the run's; `config.out` is claimed and holds everything that was prepared.
        world: its ranks.

    Raises:
        UserError: it did not start; shows the end of its log.
    """
    if not has_critic_server(config):
        yield None
        return
    with OwnCriticServer(config, world) as server:
        yield Critic(server.url, str(rank_log(Path(config.out), 0)))


def rank_log(out: Path, rank: int) -> Path:
    """Where what a rank of the critic says is appended."""
    return out / LOGS / f"critic_{rank}.log"


class OwnCriticServer:
    """The ranks of a critic server. When one of them ends before the block does, the others are ended."""

    def __init__(self, config: TrainConfig, world: int) -> None:
        """
        Args:
            config: the run's.
            world: ranks.
        """
        self._out = Path(config.out)
        self._port = config.critic.port or free_port(LOOPBACK)
        self._world = world
        self._threads = threads(config.actor.threads, world)
        self._ranks: list[subprocess.Popen] = []
        self._ending = threading.Event()
        self._watch = threading.Thread(target=self._end_together, name="critic-server", daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self._port}"

    def __enter__(self) -> OwnCriticServer:
        check_free(self._port)
        self._scratch = tempfile.mkdtemp(prefix="crossthink-critic-")
        try:
            self._start()
            self._wait_until_up()
        except BaseException:
            self._end()
            raise
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._watch.join()
        self._end()

    def _start(self) -> None:
        environment = os.environ | {
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": str(self._world),
            **server_environment(self._threads, self._scratch, self._port),
            PARENT: str(os.getpid()),
        }
        for rank in range(self._world):
            with open(rank_log(self._out, rank), "a", encoding="utf-8") as output:
                self._ranks.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "recipes.critic_server", str(self._out)],
                        env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdout=output,
                        stderr=output,
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,  # Ctrl-C is for the trainer; and Triton's processes end as one group
                    )
                )

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if (ended := self._first_ended()) is not None:
                raise UserError(f"The critic server did not start. {self._how_it_ended(ended)}")
            if is_ready(self.url):
                return
            time.sleep(POLL_S)
        raise UserError(f"The critic server did not answer within {START_S:g} s: {tail(rank_log(self._out, 0))}")

    def _first_ended(self) -> int | None:
        return next((rank for rank, process in enumerate(self._ranks) if exit_code(process) is not None), None)

    def _how_it_ended(self, rank: int) -> str:
        log = rank_log(self._out, rank)
        return f"Its rank {rank} ended with code {exit_code(self._ranks[rank])}. The end of {log}:\n{tail(log)}"

    def _end_together(self) -> None:
        """Whoever asks a server that has lost a rank would wait for ever; one that is gone refuses at once."""
        while not self._ending.wait(POLL_S):
            if (ended := self._first_ended()) is not None:
                print(f"crossthink: the critic server failed. {self._how_it_ended(ended)}", file=sys.stderr, flush=True)
                self._kill()
                return

    def _end(self) -> None:
        if self._ranks:  # rank 0 stops Triton in order; the others have nothing to leave behind
            os.kill(self._ranks[0].pid, signal.SIGTERM)
            wait_until(lambda: exit_code(self._ranks[0]) is not None, GRACE_S)
        self._kill()
        for process in self._ranks:
            process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _kill(self) -> None:
        kill_groups([process.pid for process in self._ranks])


def server_environment(threads: int, scratch: str, port: int) -> dict[str, str]:
    """What a rank of the server reads, beside what every rank does.

    Args:
        threads: of the CPU.
        scratch: folder of PyTriton's own files.
        port: where its first rank answers, on loopback.
    """
    return {
        "OMP_NUM_THREADS": str(threads),  # torch's own setting does not reach PyTriton's threads
        "TOKENIZERS_PARALLELISM": "false",  # or they warn at every fork
        "CROSSTHINK_CRITIC_HOST": LOOPBACK,
        "PYTRITON_HOME": scratch,
        PORT: str(port),
    }


def is_ready(url: str) -> bool:
    """Whether a critic server answers at this address with all that it has."""
    try:
        # critic_save is what Aligner's server brings up last.
        return httpx.get(f"{url}/v2/models/critic_save/ready", timeout=5.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


def check_free(port: int) -> None:
    """Refuse a port on loopback that another program has. Raises ConfigError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ConfigError(
                f"critic.port={port} cannot be had on {LOOPBACK}: {error.strerror}. End the other program, choose "
                "another port, or drop critic.port for a free one."
            ) from error


def exit_code(process: subprocess.Popen) -> int | None:
    """As `poll`, without taking the exit code: until then no other process gets this id."""
    found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def kill_groups(groups: list[int]) -> None:
    """End ranks at once, and what they have started. Their ids stay taken until they are waited for.

    Args:
        groups: the ranks' process ids, which are their groups' too.
    """
    for group in groups:
        os.kill(group, signal.SIGKILL)
    # The kernel tells Triton when the rank that started it has gone; it may end in order, if nobody waits for it.
    if not wait_until(lambda: not _alive_in(groups), TRITON_GRACE_S):
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in _alive_in(groups):
                if not _is_tracker(process):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(number)
            wait_until(lambda: all(map(_is_tracker, _alive_in(groups))), KILL_GRACE_S)
        wait_until(lambda: not _alive_in(groups), TRACKER_GRACE_S)
        for group in groups:
            os.killpg(group, signal.SIGKILL)
    for group in groups:
        for left in SHARED_MEMORY.glob(f"{TRITON_PREFIX}{group}-*"):
            left.unlink()


def _alive_in(groups: list[int]) -> list[psutil.Process]:
    """The processes of these groups that run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _is_tracker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return any(TRACKER in word for word in process.cmdline())
    return True  # it has ended: nothing to wait for


def wait_until(done: Callable[[], bool], limit_s: float) -> bool:
    """Whether it was done in time."""
    deadline = time.monotonic() + limit_s
    while not (found := done()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return found
