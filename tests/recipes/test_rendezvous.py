"""Ranks that meet through a file, as under a batch system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from crossthink.errors import UserError
from recipes import rendezvous
from recipes.rendezvous import HOST, RENDEZVOUS, meet

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
    import socket

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


def test_one_alone_and_one_under_another_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RENDEZVOUS, raising=False)
    assert isinstance(meet(0, 1, 1.0), dist.HashStore)
    assert meet(0, 2, 1.0) is None and meet(1, 2, 1.0) is None
