"""The servers of a job as its rank 0 sees them: other tasks start them, and say where they answer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conf.train import TrainConfig
from crossthink.errors import UserError
from recipes.own_critic import is_wanted as critic_is_wanted
from slurm.attempt import Attempt, polls


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
        yield list(config.rollout.url) or self._wait("rollout", config.rollout.servers)

    @contextlib.contextmanager
    def critic(self, config: TrainConfig, world: int) -> Iterator[str | None]:
        """See `Servers.critic`."""
        yield self._wait("critic", 1)[0] if critic_is_wanted(config) else None

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
            step = self.now.folder / "ends" / f"{role}.code"
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
