"""When a run starts a critic server, where it refuses, and how its processes are told apart; without starting one."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conf.train import TrainConfig
from crossthink.errors import ConfigError
from recipes import own_critic


def ppo(**critic: object) -> TrainConfig:
    config = TrainConfig(out="unused")
    config.algorithm.name, config.actor.name = "ppo", "aligner"
    for key, value in critic.items():
        setattr(config.critic, key, value)
    return config


@pytest.mark.parametrize(("algorithm", "actor"), [("grpo", "aligner"), ("ppo", "megatron")])
def test_other_runs_have_none(algorithm: str, actor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = ppo()
    config.algorithm.name, config.actor.name = algorithm, actor
    own_critic.check(config)
    with own_critic.critic_server(config, world=2) as critic:
        assert critic is None


def test_a_port_in_use_is_refused_by_name() -> None:
    with socket.socket() as taken:
        taken.bind((own_critic.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"critic.port={port} cannot be had on 127.0.0.1: Address already in use"):
            own_critic.check(ppo(port=port))
    own_critic.check(ppo(port=port))


def test_its_last_words_are_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "critic_0.log"
    critic = own_critic.Critic("http://127.0.0.1:5", str(log))
    assert critic.last_words() == f"The end of {log}:\n(it said nothing)"
    log.write_text("loading\nRuntimeError: out of memory\n")
    assert critic.last_words() == f"The end of {log}:\nloading\nRuntimeError: out of memory"


def test_an_outside_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match="WORLD_SIZE=8.*Allowed there: algorithm=grpo, or actor=megatron"):
        own_critic.check(ppo())


def test_exit_codes_are_seen_without_being_taken() -> None:
    """Until it is waited for, an ended process keeps its id, so that no stranger's group is ever signalled."""
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], start_new_session=True)
    killed = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    assert own_critic.exit_code(killed) is None and own_critic._alive_in([killed.pid])
    killed.send_signal(signal.SIGKILL)
    own_critic.wait_until(lambda: None not in (own_critic.exit_code(ended), own_critic.exit_code(killed)), 20.0)
    assert (own_critic.exit_code(ended), own_critic.exit_code(killed)) == (3, -signal.SIGKILL)
    assert not own_critic._alive_in([ended.pid])
    assert (ended.wait(), killed.wait()) == (3, -signal.SIGKILL)


STUBBORN = """
import os, signal, time
from multiprocessing.shared_memory import SharedMemory

memory = SharedMemory(create=True, size=16)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(memory.name, flush=True)
time.sleep(60)
"""


def test_killed_processes_leave_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's resource tracker removes it once nobody is left who holds it, so it must outlive those it is for."""
    monkeypatch.setattr(own_critic, "TRITON_GRACE_S", 0.0)
    monkeypatch.setattr(own_critic, "KILL_GRACE_S", 0.0)
    rank = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, start_new_session=True)
    memory = own_critic.SHARED_MEMORY / rank.stdout.readline().strip()  # of the child: it is ready
    assert memory.exists() and len(own_critic._alive_in([rank.pid])) == 3
    own_critic.kill_groups([rank.pid])
    assert not own_critic._alive_in([rank.pid]) and not memory.exists()
    assert rank.wait() == -signal.SIGKILL
    rank.stdout.close()
