"""What stands before the steps of every stage, in the process that runs them."""

from __future__ import annotations

from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from crossthink.errors import UserError
from crossthink.procs import die_with_parent, forks_die_with_parent
from data_prep.synthesis.stages import check_yield


class Guard(PipelineStep):
    """Ends this process with its parent, and what it forks with it; stops where the stage before let nothing through.

    Args:
        before: folder of logs of the stage before; None: this is the first.
    """

    type, name = "🛡 - GUARD", "Yield of the stage before"

    def __init__(self, before: str | None) -> None:
        super().__init__()
        self.before = before

    def __call__(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Check; there are no documents yet."""
        die_with_parent()
        forks_die_with_parent()  # Trafilatura's process would wait for a killed one for ever
        said = check_yield(Path(self.before)) if self.before else None
        if said is not None:
            raise UserError(said)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Nothing runs here: see `__call__`."""
        raise NotImplementedError
