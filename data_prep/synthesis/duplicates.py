"""datatrove's filter of near-duplicate pages, which counts them as every other filter does."""

from __future__ import annotations

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.dedup import MinhashDedupFilter


class Unrepeated(MinhashDedupFilter):
    """Of pages that nearly repeat each other one stays (`dropped_near_duplicate`)."""

    name = "Duplicates"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """See `PipelineStep.run`."""
        yield from super().run(data, rank, world_size)
        self.stat_update("dropped_near_duplicate", value=self.stats["dropped"].total)
