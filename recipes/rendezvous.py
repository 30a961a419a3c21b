"""Where the ranks of a run meet: a store that the first of them keeps.

`MASTER_ADDR` and `MASTER_PORT` name a port that was free when somebody looked. Under a batch system nobody can look on
the node before it is given out, so there the first rank takes any free port and publishes it in the file that
`CROSSTHINK_RENDEZVOUS` names, on storage that all nodes see.

The store has no secret. Torch would listen on every address of the machine, so the first rank opens the port itself, on
the address that the ranks use.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from pathlib import Path

import torch.distributed as dist

from crossthink.errors import UserError
from crossthink.files import write_json

RENDEZVOUS = "CROSSTHINK_RENDEZVOUS"
HOST = "CROSSTHINK_HOST"
"""Address of this node on which the other nodes reach it."""
POLL_S = 0.2
LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
"""What `MASTER_ADDR` says where all ranks are on one machine, and the address that they use."""


def meet(rank: int, world: int, timeout_s: float) -> dist.Store | None:
    """The store through which process groups are made; None: torch reads `MASTER_ADDR` and `MASTER_PORT` itself.

    Args:
        rank: this process's.
        world: how many there are. One alone needs no port.
        timeout_s: seconds to wait for the first rank, and for an answer of the store later.

    Raises:
        UserError: the first rank published no address in time, or cannot listen on the port that it was given.
    """
    if world == 1:
        return dist.HashStore()
    timeout = datetime.timedelta(seconds=timeout_s)
    if RENDEZVOUS not in os.environ:
        return _meet_here(rank, world, timeout)
    path = Path(os.environ[RENDEZVOUS])
    if rank == 0:
        host = os.environ.get(HOST, "127.0.0.1")
        store = _listen(host, 0, world, timeout)
        write_json(path, {"host": host, "port": store.port})
        return store
    where = _published(path, timeout_s)
    return dist.TCPStore(where["host"], where["port"], world, is_master=False, timeout=timeout)


def _meet_here(rank: int, world: int, timeout: datetime.timedelta) -> dist.Store | None:
    """The store at `MASTER_PORT` where all ranks are on this machine; None: they are not, or torchrun keeps a store."""
    host = LOOPBACK.get(os.environ.get("MASTER_ADDR", ""))
    if host is None or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # as torch compares it
        return None
    said = os.environ.get("MASTER_PORT", "")
    if not (said.isascii() and said.isdigit() and 0 < int(said) < 2**16):
        raise UserError(f"MASTER_PORT={said} is no port. Allowed: 1 to 65535, the same for every rank.")
    port = int(said)
    if rank > 0:
        return dist.TCPStore(host, port, world, is_master=False, timeout=timeout)
    try:
        return _listen(host, port, world, timeout)
    except OSError as error:
        raise UserError(
            f"MASTER_PORT={port}: rank 0 cannot listen there on {host} ({error.strerror}). Allowed: a port that is "
            "free. Start the run again, or give it another port."
        ) from error


def _listen(host: str, port: int, world: int, timeout: datetime.timedelta) -> dist.TCPStore:
    """A store that this process keeps, on this address alone. Port 0: any free one. Raises OSError: it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=world)  # torch would listen on every address
    return dist.TCPStore(
        host, listener.getsockname()[1], world, is_master=True, wait_for_workers=False, timeout=timeout,
        master_listen_fd=listener.detach(),
    )  # fmt: skip


def _published(path: Path, timeout_s: float) -> dict:
    deadline = time.monotonic() + timeout_s
    while not path.is_file():  # written whole or not at all
        if time.monotonic() > deadline:
            raise UserError(f"Rank 0 published no address in {path} within {timeout_s:g} s. Its log says why.")
        time.sleep(POLL_S)
    return json.loads(path.read_text("utf-8"))
