"""The processes that `train` starts: its ranks, its reward and rollout servers. None of them outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from conf.reward import RewardConfig, ShapingConfig
from conf.train import TrainConfig
from crossthink.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, UserError
from crossthink.procs import PARENT, free_port, stop
from crossthink.secret import read_secret
from recipes import own_critic
from recipes.machine import threads_each
from recipes.nodes import own_rollout_servers
from recipes.own_critic import Critic
from recipes.own_server import OwnRewardServer, OwnRolloutServer
from recipes.run_files import LOGS, newest_step, tail
from reward_server.client import RewardClient, RewardUnavailable

POLL_S = 0.1
GRACE_S = 15.0
ADDRESSES = "CROSSTHINK_ADDRESSES"
"""Variable with the `Addresses` of a rank, as JSON."""


@dataclass(frozen=True)
class Addresses:
    """Where a run's servers answer. The first rank alone asks them; the others need not know.

    Attributes:
        reward: the reward servers.
        rollout: the rollout servers; none where the actor's ranks generate.
        critic: the critic server; None where the run wants none.
    """

    reward: Sequence[str] = ()
    rollout: Sequence[str] = ()
    critic: Critic | None = None

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Addresses:
        """What `to_json` wrote."""
        found = json.loads(text)
        critic = found["critic"]
        return cls(found["reward"], found["rollout"], None if critic is None else Critic(**critic))


class Servers(Protocol):
    """Where a run's servers are from. Each is there for as long as the block; all raise UserError where they are not.

    `OwnServers` starts them on this machine; under a batch system other tasks of the job have started them.
    """

    def check(self, config: TrainConfig) -> None:
        """Refuse what these servers cannot be. Raises ConfigError."""
        ...

    def reward(self, config: TrainConfig, log: Path) -> contextlib.AbstractContextManager[list[str]]:
        """Addresses of reward servers. An own one writes into `log`."""
        ...

    def rollout(self, config: TrainConfig, model: Path) -> contextlib.AbstractContextManager[list[str]]:
        """Addresses of rollout servers; none where the actor's ranks generate. `model` has config and tokenizer."""
        ...

    def critic(self, config: TrainConfig, world: int) -> contextlib.AbstractContextManager[Critic | None]:
        """The critic server of `world` ranks; None where the run wants none."""
        ...


class OwnServers:
    """Implements `Servers`: processes of this machine, which live as long as the block."""

    def check(self, config: TrainConfig) -> None:
        """See `Servers.check`."""
        own_critic.check(config)

    def reward(self, config: TrainConfig, log: Path) -> contextlib.AbstractContextManager[list[str]]:
        """See `Servers.reward`."""
        return reward_servers(config.reward, log)

    def rollout(self, config: TrainConfig, model: Path) -> contextlib.AbstractContextManager[list[str]]:
        """See `Servers.rollout`."""
        return rollout_servers(config, model)

    def critic(self, config: TrainConfig, world: int) -> contextlib.AbstractContextManager[Critic | None]:
        """See `Servers.critic`."""
        return own_critic.critic_server(config, world)


@contextlib.contextmanager
def reward_servers(config: RewardConfig, log: Path) -> Iterator[list[str]]:
    """The addresses in `config.url`, or that of an own server which lives as long as the block.

    Raises:
        UserError: the own server did not start; shows the end of its log.
    """
    if config.url:
        yield list(config.url)
        return
    with OwnRewardServer(config, log) as server:
        yield [server.url]


@contextlib.contextmanager
def rollout_servers(config: TrainConfig, model: Path) -> Iterator[list[str]]:
    """The addresses in `rollout.url`, those of own servers which live as long as the block, or none.

    Args:
        config: the run's.
        model: folder of the model's config and tokenizer.

    Raises:
        UserError: an own server did not start; shows the end of its log.
    """
    count = own_rollout_servers(config)
    if not count:
        yield list(config.rollout.url)
        return
    threads = threads_each(count)
    with contextlib.ExitStack() as stack:
        servers = [
            OwnRolloutServer(config, model, Path(config.out) / LOGS / f"rollout_server_{number}.log", threads)
            for number in range(count)
        ]
        for server in servers:
            server.launch()
            stack.callback(server.end)
        for server in servers:
            stack.enter_context(server)
        yield [server.url for server in servers]


def reward_client(config: RewardConfig, urls: Sequence[str]) -> RewardClient:
    """The client of these servers, with the patience and the secret that the config gives it."""
    token = read_secret(config.token, "reward.token")
    return RewardClient(urls, deadline_s=config.deadline_s, outage_limit_s=config.outage_limit_s, token=token)


def rules_facts(info: dict[str, Any]) -> dict[str, Any]:
    """What a run writes down of `RewardClient.rules_info`: rules_hash, match, and shaping where there is any.

    What the server does not tell is left out.
    """
    shaping = {} if info["shaping"] == asdict(ShapingConfig()) else info["shaping"]
    facts = {"rules_hash": info["rules_hash"], "match": info["match"], "shaping": shaping}
    return {key: value for key, value in facts.items() if value}


def rules_of(config: RewardConfig, client: RewardClient) -> dict[str, Any]:
    """`rules_facts` of the servers, which are asked now.

    Raises:
        UserError: none can be reached, they disagree, or they judge by another match than the config asks for.
    """
    try:  # at the start a wrong address is more likely than an outage, and there is nothing to go on with
        facts = rules_facts(client.rules_info(patience_s=min(config.deadline_s, config.outage_limit_s)))
    except RewardUnavailable as error:
        raise UserError(str(error)) from error
    if config.match != RewardConfig.match and facts.get("match") != config.match:
        raise UserError(
            f"reward.match={config.match} is the rule of the run's own server, and the servers in reward.url judge by "
            f"match={facts.get('match')}. Start them with match={config.match}, or drop reward.match=."
        )
    return facts


def run_ranks(out: Path, world: int, addresses: Addresses) -> int:
    """Start `world` ranks of the run in `out` on this machine, with the servers at these addresses, and wait for them.

    SIGINT and SIGTERM are passed on as SIGTERM: the ranks finish their step, save and exit 75. A second one ends them
    at once. When one rank fails, the others are ended.

    Returns:
        0, 75 where every rank stopped resumable, or the first failing rank's code.
    """
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
        PARENT: str(os.getpid()),
        ADDRESSES: addresses.to_json(),
    }
    ranks: list[subprocess.Popen] = []
    with contextlib.ExitStack() as stack:
        for rank in range(world):
            # Rank 0 speaks for all; what the others say is kept beside.
            output = None if rank == 0 else stack.enter_context(open(_rank_log(out, rank), "a", encoding="utf-8"))
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-m", "recipes.rank", str(out)],
                    env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        try:
            with _passing_signals_to(ranks):
                return _wait(out, ranks)
        finally:
            for process in ranks:
                stop(process, grace_s=2.0)


def _wait(out: Path, ranks: Sequence[subprocess.Popen]) -> int:
    while True:
        codes = [process.poll() for process in ranks]
        failed = [rank for rank, code in enumerate(codes) if code not in (None, EXIT_DONE, EXIT_RESUMABLE)]
        if failed:
            # Ranks fail together; the one that ended first knows why, and rank 0 says it where it can.
            deadline = time.monotonic() + GRACE_S
            while time.monotonic() < deadline and any(process.poll() is None for process in ranks):
                time.sleep(POLL_S)
            first = min(failed, key=lambda rank: (codes[rank] or 0) > 0)  # one that was killed is why the others fail
            code = codes[first] or EXIT_FAILED
            if code < 0 or 0 not in failed:
                print(_how_it_ended(out, first, code), file=sys.stderr)
            return code if code > 0 else EXIT_FAILED
        ended = [code for code in codes if code is not None]
        if len(ended) == len(ranks):
            return max(ended)
        time.sleep(POLL_S)


def _how_it_ended(out: Path, rank: int, code: int) -> str:
    log = _rank_log(out, rank)
    if code > 0:
        return f"crossthink: rank {rank} failed: {tail(log)}"
    said = "The kernel does so when memory runs out." if -code == signal.SIGKILL else f"The end of {log}: {tail(log)}"
    return (
        f"crossthink: rank {rank} was ended by signal {-code}, and the others with it. {said} The same command with "
        f"resume=true goes on from step {newest_step(out)} of {out}."
    )


@contextlib.contextmanager
def _passing_signals_to(ranks: Sequence[subprocess.Popen]) -> Iterator[None]:
    asked = False

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked
        for process in ranks:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL if asked else signal.SIGTERM)
        if asked:
            raise KeyboardInterrupt
        asked = True

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _rank_log(out: Path, rank: int) -> Path:
    folder = out / LOGS
    folder.mkdir(exist_ok=True)
    return folder / f"rank_{rank}.log"
