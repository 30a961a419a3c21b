"""Ranks that meet: on one machine, and through a file, as under a batch system."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

from crossthink.errors import UserError
from crossthink.procs import free_port
from recipes import rendezvous
from recipes.rendezvous import HOST, RENDEZVOUS, meet

AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
RANK = """
import os, sys
import torch
import torch.distributed as dist
from recipes.rendezvous import meet

rank = int(sys.argv[1])
dist.init_process_group("gloo", store=meet(rank, 2, 60.0), rank=rank, world_size=2)
value = torch.tensor([float(rank + 1)])
dist.all_reduce(value)
print(value.item(), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_meet_and_add_up(tmp_path: Path) -> None:
    path = tmp_path / "rendezvous.json"
    # A port that nobody listens on: the file's goes before it.
    environment = os.environ | {
        RENDEZVOUS: str(path),
        HOST: "127.0.0.1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "9",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)  # the one that waits is there first
    ]  # fmt: skip
    try:
        for process in ranks:
            said, complained = process.communicate(timeout=120)
            assert (process.returncode, said) == (0, "3.0\n"), complained
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    where = json.loads(path.read_text())
    assert where["host"] == "127.0.0.1" and 0 < where["port"] < 65536


def test_the_first_rank_listens_on_its_own_address_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RENDEZVOUS, str(tmp_path / "r.json"))
    monkeypatch.setenv(HOST, "127.0.0.2")
    store = meet(0, 2, 10.0)
    where = json.loads((tmp_path / "r.json").read_text())
    assert where["host"] == "127.0.0.2"
    # Elsewhere the port is free.
    with socket.create_server(("127.0.0.3", where["port"])):
        other = meet(1, 2, 10.0)
    store.set("said", "hello")
    assert other.get("said") == b"hello"


def test_without_a_first_rank_the_others_say_so_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RENDEZVOUS, str(tmp_path / "r.json"))
    monkeypatch.setattr(rendezvous, "POLL_S", 0.02)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"Rank 0 published no address in .*r.json within 0\.3 s. Its log says why"):
        meet(1, 2, 0.3)
    assert time.monotonic() - began >= 0.3


ONE_MACHINE = """
import sys
from recipes.rendezvous import meet

rank = int(sys.argv[1])
store = meet(rank, 2, 60.0)
if store is None:  # what torch does itself
    import torch.distributed as dist
    dist.init_process_group("gloo", rank=rank, world_size=2)
    store = dist.distributed_c10d._get_default_store()
store.set(f"said by {rank}", "hello")
store.get(f"said by {1 - rank}")
print("met", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("address, listens", [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "::1")])
def test_on_one_machine_nobody_outside_reaches_the_store(address: str, listens: str) -> None:
    _skip_without(listens)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in (RENDEZVOUS, AGENT_STORE)}
    environment |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_MACHINE, str(rank)], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )
        for rank in (1, 0)
    ]  # fmt: skip
    try:
        assert [process.stdout and process.stdout.readline() for process in ranks] == ["met\n"] * 2
        found = psutil.Process(ranks[1].pid).net_connections("inet")
        assert {one.laddr.ip for one in found if one.status == "LISTEN" and one.laddr.port == port} == {listens}
        for process in ranks:
            process.communicate("\n", timeout=60)
            assert process.returncode == 0
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


def _skip_without(address: str) -> None:
    try:
        socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError:
        pytest.skip(f"no {address} on this machine")


def test_a_port_that_is_taken_or_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RENDEZVOUS, raising=False)
    monkeypatch.delenv(AGENT_STORE, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(UserError, match=rf"MASTER_PORT={port}: rank 0 cannot listen there on 127\.0\.0\.1"):
            meet(0, 2, 1.0)
    for port in ("", "no", "0", "65536", "-1"):
        monkeypatch.setenv("MASTER_PORT", port)
        with pytest.raises(UserError, match=f"MASTER_PORT={port} is no port. Allowed: 1 to 65535"):
            meet(1, 2, 1.0)


def test_one_alone_and_several_under_another_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RENDEZVOUS, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert isinstance(meet(0, 1, 1.0), dist.HashStore)
    assert meet(0, 2, 1.0) is None and meet(1, 2, 1.0) is None
    # torchrun keeps the store itself.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv(AGENT_STORE, "True")
    assert meet(0, 2, 1.0) is None and meet(1, 2, 1.0) is None
