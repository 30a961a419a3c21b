"""The servers of a job as its rank 0 sees them: other tasks start them, and say where they answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conf.train import TrainConfig
from crossthink.errors import UserError
from recipes.nodes import has_critic_server, own_rollout_servers
from recipes.own_critic import Critic
from slurm.attempt import ENDS, Attempt, polls


@dataclass(frozen=True)
class PublishedServers:
    """Implements `recipes.launch.Servers`.

    Attributes:
        now: the attempt.
        ready_s: seconds until all servers of a kind must answer.
    """

    now: Attempt
    ready_s: float

    def check(self, config: TrainConfig) -> None:
        """See `Servers.check`. `submit` has placed them."""

    @contextlib.contextmanager
    def reward(self, config: TrainConfig, log: Path) -> Iterator[list[str]]:
        """See `Servers.reward`."""
        yield list(config.reward.url) or self._wait("reward", max(1, config.nodes.reward))

    @contextlib.contextmanager
    def rollout(self, config: TrainConfig, model: Path) -> Iterator[list[str]]:
        """See `Servers.rollout`."""
        yield self._wait("rollout", own_rollout_servers(config)) or list(config.rollout.url)

    @contextlib.contextmanager
    def critic(self, config: TrainConfig, world: int) -> Iterator[Critic | None]:
        """See `Servers.critic`."""
        if not has_critic_server(config):
            yield None
            return
        [url] = self._wait("critic", 1)
        yield Critic(url, str(self.now.log("critic_0")))

    def _wait(self, role: str, count: int) -> list[str]:
        """The addresses of all servers of a kind.

        Raises:
            UserError: one ended, or was not ready in time; names its log.
        """
        names = [f"{role}_{number}" for number in range(count)]
        deadline = time.monotonic() + self.ready_s
        for _ in polls():
            urls = {name: self.now.published(name) for name in names}
            missing = [name for name, url in urls.items() if url is None]
            if not missing:
                return [url for url in urls.values() if url is not None]
            for end in self.now.ends():
                if end.task in missing:
                    raise UserError(f"{end.task} on {end.node} did not start: {end.said}")
            step = self.now.folder / ENDS / f"{role}.code"
            if step.is_file():
                raise UserError(
                    f"The srun of {role} ended with code {step.read_text().strip()} before {missing[0]} answered: "
                    f"see {self.now.logs}."
                )
            if time.monotonic() > deadline:
                raise UserError(
                    f"{missing[0]} ({len(missing)} of {count}) was not ready within {self.ready_s:g} s "
                    f"(cluster.ready_s): see {self.now.logs}."
                )
        raise AssertionError("polls is endless")
