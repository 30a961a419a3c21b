"""Where the ranks of a run meet: a store that the first of them keeps.

`MASTER_ADDR` and `MASTER_PORT` name a port that was free when somebody looked. Under a batch system nobody can look on
the node before it is given out, so there the first rank takes any free port and publishes it in the file that
`CROSSTHINK_RENDEZVOUS` names, on storage that all nodes see.
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


def meet(rank: int, world: int, timeout_s: float) -> dist.Store | None:
    """The store through which process groups are made; None: torch reads `MASTER_ADDR` and `MASTER_PORT` itself.

    Args:
        rank: this process's.
        world: how many there are. One alone needs no port.
        timeout_s: seconds to wait for the first rank, and for an answer of the store later.

    Raises:
        UserError: the first rank published no address in time.
    """
    if world == 1:
        return dist.HashStore()
    if RENDEZVOUS not in os.environ:
        return None
    path, timeout = Path(os.environ[RENDEZVOUS]), datetime.timedelta(seconds=timeout_s)
    if rank == 0:
        host = os.environ.get(HOST, "127.0.0.1")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, 0), family=family, backlog=world)  # torch would listen on every address
        port = listener.getsockname()[1]
        store = dist.TCPStore(
            host, port, world, is_master=True, wait_for_workers=False, timeout=timeout,
            master_listen_fd=listener.detach(),
        )  # fmt: skip
        write_json(path, {"host": host, "port": port})
        return store
    where = _published(path, timeout_s)
    return dist.TCPStore(where["host"], where["port"], world, is_master=False, timeout=timeout)


def _published(path: Path, timeout_s: float) -> dict:
    deadline = time.monotonic() + timeout_s
    while not path.is_file():  # written whole or not at all
        if time.monotonic() > deadline:
            raise UserError(f"Rank 0 published no address in {path} within {timeout_s:g} s. Its log says why.")
        time.sleep(POLL_S)
    return json.loads(path.read_text("utf-8"))
