"""The critic server of algorithm=ppo with actor=aligner in a job: its ranks stand beside the actor's, rank by rank."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from crossthink.procs import free_port
from recipes.own_critic import (
    LOOPBACK,
    PORT,
    check_free,
    exit_code,
    is_ready,
    kill_groups,
    server_environment,
    wait_until,
)
from recipes.run_folder import read_config
from slurm.attempt import Attempt, polls
from slurm.places import index

ENDING_S = 30.0
"""Seconds for the server's Triton to end in order."""


def critic_environment(run: Path, threads: int) -> dict[str, str]:
    """What `recipes.critic_server` reads, beside what every rank does.

    The server listens on loopback: rank 0 of the actor, which alone asks it, stands on the same node.

    Args:
        run: the run folder.
        threads: CPU threads of the task; `actor.threads` goes before it.

    Raises:
        ConfigError: another program of the node has `critic.port`.
    """
    config = read_config(run)
    assert config is not None
    if config.critic.port is not None and index() == 0:
        check_free(config.critic.port)
    port = config.critic.port or free_port(LOOPBACK)
    scratch = tempfile.mkdtemp(prefix="crossthink-critic-")
    return server_environment(config.actor.threads or threads, scratch, port)


def keep_critic(child: subprocess.Popen, now: Attempt, task: str, environment: dict[str, str]) -> bool:
    """Watch over a rank of the server until the attempt is over, or another rank has failed; then end it.

    Args:
        child: the rank.
        now: the attempt.
        task: its name; the first rank publishes the server's address under it.
        environment: of the rank.

    Returns:
        Whether it was ended for another, and not by itself.
    """
    url = f"http://{LOOPBACK}:{environment[PORT]}"
    published, followed = index() != 0, True
    for _ in polls():
        if exit_code(child) is not None:
            followed = False
            break
        if not now.is_wanted() or now.failure_of("critic"):
            break
        if not published and is_ready(url):
            now.publish(task, url)
            published = True
    if followed:
        child.send_signal(signal.SIGTERM)
        wait_until(lambda: exit_code(child) is not None, ENDING_S)
    kill_groups([child.pid])
    shutil.rmtree(environment["PYTRITON_HOME"], ignore_errors=True)
    return followed
