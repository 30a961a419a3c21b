"""What every protocol of the server calls: items in, verdicts out, with limits, counters and one copy of the rules."""

from __future__ import annotations

from collections.abc import Sequence

from conf.reward import ServeRewardConfig
from reward_server import shaping
from reward_server.batch import judge_batch
from reward_server.pool import WorkerPool
from reward_server.verdicts import Item, Verdict, rules_hash


class Refused(Exception):
    """A request that cannot be served.

    Args:
        status: the HTTP status.
        detail: the field, its value and what is allowed.
        retry_after_s: seconds after which the same request may be served; None where it never will be.
    """

    def __init__(self, status: int, detail: str, retry_after_s: int | None = None):
        super().__init__(detail)
        self.status, self.detail, self.retry_after_s = status, detail, retry_after_s


class Service:
    """Judges batches for the protocols. One per server.

    Attributes:
        config: as given.
        rules_hash: of the rules that it judges by.
        pool: the math workers; there between `__aenter__` and `__aexit__`.
    """

    def __init__(self, config: ServeRewardConfig):
        self.config = config
        self.rules_hash = rules_hash(config.match, config.shaping)
        self.pool = WorkerPool(config.workers, config.deadline_s)

    async def __aenter__(self) -> Service:
        await self.pool.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.pool.__aexit__(*exception)

    async def score(self, items: Sequence[Item], protocol: str) -> list[Verdict]:
        """Verdicts in the order of the items, shaped as the configuration says.

        Args:
            protocol: who asks, for the counters: "v1", "openrlhf", "nemo_gym", …

        Raises:
            Refused: too many or too long items (413), an item without a field that shaping needs (422), or a full
                queue (429).
        """
        verdicts = await judge_batch(items, self.config.match, self.pool)
        return [shaping.shape(one, item, self.config.shaping) for one, item in zip(verdicts, items, strict=True)]
