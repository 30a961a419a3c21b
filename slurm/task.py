"""What srun starts on the nodes of a job: `python -m slurm.task ROLE RUN`, ROLE one of reward, rollout, critic, rank.

A server's task starts its server again when it ends, as a run on one machine does, and publishes its address. A rank's
task waits for what the rank needs, starts it, and watches over it: it passes on the wish to stop, ends it with the
others, shows its stack when it gives no sign of life, and writes down how it ended.

SLURM's own signals reach the watcher, its child or both, depending on the cluster's plugins. So the child ignores them
all until it listens for SIGTERM, after which a second one does nothing, and the watcher repeats SIGTERM until it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from conf.cluster import ClusterConfig
from conf.train import TrainConfig
from crossthink.errors import EXIT_FAILED, EXIT_USAGE, ConfigError, UserError
from recipes.nodes import server_gpus
from recipes.own_server import Address, OwnRewardServer, OwnRolloutServer, OwnServer
from recipes.run_folder import model_folder, read_config
from slurm.attempt import CLUSTER, SECRET, Attempt, End, polls
from slurm.places import index, local_index, node, threads
from slurm.settings import read_cluster
from slurm.watch import Watched, watch

ROLES = ("reward", "rollout", "critic", "rank")


def main(words: Sequence[str]) -> int:
    """Run one task. Returns its exit code."""
    if len(words) != 2 or words[0] not in ROLES:
        print(f"usage: python -m slurm.task {'|'.join(ROLES)} RUN", file=sys.stderr)
        return EXIT_USAGE
    role, run = words[0], Path(words[1])
    # Inherited by every child, see above.
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    now = Attempt.from_environment()
    try:
        if role in ("reward", "rollout"):
            return serve(role, run, now)
        cluster = read_cluster(run)
        return watch(Watched(role, run, now, cluster, address_of(cluster)))
    except UserError as error:
        print(f"crossthink: {error}", file=sys.stderr, flush=True)
        now.ended(End(f"{role}_{index()}", node(), error.exit_code, time.time(), said=str(error)))
        return error.exit_code
    except Exception as error:  # the task's boundary: rank 0 would wait for a server that never comes
        now.ended(End(f"{role}_{index()}", node(), EXIT_FAILED, time.time(), said=f"{type(error).__name__}: {error}"))
        raise


def serve(role: str, run: Path, now: Attempt) -> int:
    """Keep a server until the attempt is over.

    Raises:
        UserError: it did not start.
    """
    name, cluster = f"{role}_{index()}", read_cluster(run)
    config = read_config(run)
    assert config is not None
    log = now.log(name)
    if role == "rollout":
        wait_for_model(config, now)
    with make_server(role, config, cluster, log) as server:
        now.publish(name, server.url)
        print(f"{name} on {server.url}", flush=True)
        for _ in polls():
            if not now.is_wanted():
                break
    now.ended(End(name, node(), 0, time.time(), followed=True))
    return 0


def make_server(role: str, config: TrainConfig, cluster: ClusterConfig, log: Path) -> OwnServer:
    """The server of this task, not started."""
    run = Path(config.out)
    address = Address(address_of(cluster), run / CLUSTER / SECRET)
    if role == "reward":
        return OwnRewardServer(config.reward, log, address)
    gpus = own_gpus(os.environ, local_index(), server_gpus(config))
    return OwnRolloutServer(config, model_folder(config), log, threads(cluster), address, gpus)


def own_gpus(environment: dict[str, str] | os._Environ, place: int, count: int) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES of the task at `place` on its node, where the job has GPUs.

    Raises:
        ConfigError: the node has too few.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return {}
    devices = [device for device in listed.split(",") if device]
    mine = devices[place * count : (place + 1) * count]
    if len(mine) < count:
        raise ConfigError(
            f"Task {place} of this node needs {count} GPUs from the {place * count + 1}. on, and SLURM gave the node "
            f"{len(devices)} (CUDA_VISIBLE_DEVICES={listed}). Set cluster.gres, or fewer rollout.servers."
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


def wait_for_model(config: TrainConfig, now: Attempt) -> None:
    """Until the tokenizer's folder is there: rank 0 makes that of model=tiny."""
    if config.model.path is None:
        for _ in polls():
            if model_folder(config).is_dir() or not now.is_wanted():
                return


def address_of(cluster: ClusterConfig) -> str:
    """The address on which other nodes reach this one.

    Raises:
        ConfigError: there is no such interface.
    """
    if cluster.interface is not None:
        interfaces = psutil.net_if_addrs()
        found = [one.address for one in interfaces.get(cluster.interface, []) if one.family == socket.AF_INET]
        if not found:
            raise ConfigError(
                f"cluster.interface={cluster.interface} has no IPv4 address on {node()}. It has: "
                f"{', '.join(sorted(interfaces))}."
            )
        return found[0]
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError as error:
        raise ConfigError(
            f"The host name {socket.gethostname()} has no address ({error.strerror}). Set cluster.interface."
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
