"""Watch over one rank: start it, pass on the wish to stop, end it with the others, notice when it hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from conf.cluster import ClusterConfig
from crossthink.procs import PARENT
from recipes.machine import THREADS
from recipes.rendezvous import HOST, RENDEZVOUS
from recipes.run_files import tail
from recipes.signs_of_life import ALIVE_FD, SHOW_STACK, SILENCE_S
from slurm.attempt import Attempt, End
from slurm.critic import critic_environment, keep_critic
from slurm.places import index, local_index, node, tasks_here, threads

POLL_S = 0.5
GRACE_S = 20.0
"""Seconds for a rank to end by itself when another has failed: it may know more."""
STACK_S = 3.0
"""Seconds to write the stacks of a rank that hangs."""
LAUNCHERS = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "PMI_", "PMIX_", "OMPI_", "MPI_", "PYXIS_")
"""What a child must not see: NeMo, Lightning and MPI would take SLURM's or srun's words for orders to them."""
CHILDREN = {"rank": "slurm.rank", "critic": "recipes.critic_server"}


@dataclass(frozen=True)
class Watched:
    """A rank of the actor or of the critic.

    Attributes:
        role: rank or critic.
        run: the run folder.
        now: the attempt.
        cluster: settings.
        host: address of this node.
    """

    role: str
    run: Path
    now: Attempt
    cluster: ClusterConfig
    host: str

    @property
    def task(self) -> str:
        """Its name in the attempt: role and index."""
        return f"{self.role}_{index()}"

    @property
    def log(self) -> Path:
        """Where what the rank says is appended."""
        return self.now.log(self.task)


def watch(watched: Watched) -> int:
    """Run the rank to its end, and write down how it ended. Returns its exit code; 128 + n after signal n."""
    asked = _Asked()
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    os.set_blocking(writes, False)
    environment = child_environment(watched, dict(os.environ), writes)
    child = _start(watched, environment, writes)
    os.close(writes)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, asked.note)
    try:
        if watched.role == "critic":
            hung, followed = False, keep_critic(child, watched.now, watched.task, environment)
        else:
            hung, followed = _wait(watched, child, reads, asked)
    finally:
        os.close(reads)
        if child.poll() is None:
            child.kill()
    code = child.wait()
    said = "" if code == 0 else tail(watched.log)
    watched.now.ended(End(watched.task, node(), code, time.time(), hung, followed, said))
    return code if code >= 0 else 128 - code


class _Asked:
    """Whether SLURM asked this task to stop."""

    def __init__(self) -> None:
        self.stop = False

    def note(self, number: int, frame: object) -> None:
        self.stop = True


def _start(watched: Watched, environment: dict[str, str], alive_fd: int) -> subprocess.Popen:
    with open(watched.log, "a", encoding="utf-8") as output:
        return subprocess.Popen(
            [sys.executable, "-m", CHILDREN[watched.role], str(watched.run)],
            env=environment,
            pass_fds=(alive_fd,),
            start_new_session=watched.role == "critic",  # it ends Triton's processes as a group
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def child_environment(watched: Watched, environment: dict[str, str], alive_fd: int) -> dict[str, str]:
    """The environment of a rank: as this task's, without the launcher's words, with its place among the ranks."""
    kept = {name: value for name, value in environment.items() if not name.startswith(LAUNCHERS)}
    suffix = "" if watched.role == "rank" else f"_{watched.role}"
    cluster, interface = watched.cluster, watched.cluster.interface
    network = {} if interface is None else {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return {
        "GOMP_SPINCOUNT": "10000",
        **kept,
        **network,
        **({} if cluster.cpus_per_task is None else {THREADS: str(cluster.cpus_per_task)}),
        **(critic_environment(watched.run, threads(cluster)) if watched.role == "critic" else {}),
        "RANK": str(index()),
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": str(local_index()),
        "LOCAL_WORLD_SIZE": str(tasks_here()),
        RENDEZVOUS: str(watched.now.folder / f"rendezvous{suffix}.json"),
        HOST: watched.host,
        PARENT: str(os.getpid()),
        ALIVE_FD: str(alive_fd),
        SILENCE_S: str(first_silence_s(cluster)),
    }


def first_silence_s(cluster: ClusterConfig) -> float:
    """Seconds that a rank may be silent before its first sign of life: it waits for servers too."""
    return cluster.ready_s + cluster.hang_s


def _wait(watched: Watched, child: subprocess.Popen, reads: int, asked: _Asked) -> tuple[bool, bool]:
    """Until the child has ended or must be ended. Returns whether it hung, and whether it was ended for another."""
    limit_s = first_silence_s(watched.cluster)
    heard = time.monotonic()
    failed_at: float | None = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(POLL_S)  # and not a sleep: which rank ended first is told by a clock
            return False, False
        if _has_beaten(reads):
            heard, limit_s = time.monotonic(), watched.cluster.hang_s
        if time.monotonic() - heard > limit_s:
            _show_stack(watched, child, time.monotonic() - heard)
            return True, False
        if not watched.now.is_current():
            _note(watched, "a later attempt of the run has begun; this one ends")
            return False, True
        if asked.stop or watched.now.must_stop():
            child.send_signal(signal.SIGTERM)
        if failed_at is None and (why := watched.now.failure_of(watched.role)):
            _note(watched, why)
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
            return False, True


def _has_beaten(reads: int) -> bool:
    try:
        return bool(os.read(reads, 65536))
    except BlockingIOError:
        return False


def _show_stack(watched: Watched, child: subprocess.Popen, silent_s: float) -> None:
    _note(watched, f"no sign of life for {silent_s:.0f} s (cluster.hang_s): its stacks follow, and it is ended")
    child.send_signal(SHOW_STACK)
    child.send_signal(signal.SIGCONT)  # one that was stopped shows its stack too
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STACK_S)


def _note(watched: Watched, what: str) -> None:
    with open(watched.log, "a", encoding="utf-8") as log:
        log.write(f"crossthink: {watched.task}: {what}\n")
