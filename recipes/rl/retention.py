"""Which checkpoints stay: the newest few, and the best by a metric of the evaluation inside the run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BEST = "best"  # beside `latest`: the name of the best checkpoint
STEP_NAME = re.compile(r"step_([0-9]+)")
"""A checkpoint's name; a copy that somebody keeps under another name is none of ours."""


@dataclass(frozen=True)
class Best:
    """The best evaluated state of a run so far, which `best` names once it is saved.

    Attributes:
        metric: the key of the evaluation's summary; more is better.
        step: the training step after which it was evaluated; None before the first.
        value: of the metric.
    """

    metric: str
    step: int | None = None
    value: float | None = None

    @staticmethod
    def of(metric: str | None, saved: Mapping[str, Any] | None) -> Best | None:
        """The best so far of a run that goes on; nothing yet where it was kept by another metric, or not at all."""
        if metric is None:
            return None
        return Best(**saved) if saved and saved["metric"] == metric else Best(metric)

    def after(self, step: int, summary: Mapping[str, Any]) -> Best:
        """The best after one more evaluation. A tie keeps the earlier; no valid verdict (None) is never the best."""
        value = summary[self.metric]
        if value is None or (self.value is not None and value <= self.value):
            return self
        return Best(self.metric, step, value)

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return asdict(self)


def prune(root: Path, newest: int, keep: int) -> None:
    """Remove all but the `keep` last of the checkpoints up to step `newest`, and the one that `best` names.

    Later ones stand there where somebody took the run back by hand; they count for nothing.
    """
    pointer = root / BEST
    best = pointer.read_text("utf-8").strip() if pointer.is_file() else ""
    names = [named for folder in root.iterdir() if (named := STEP_NAME.fullmatch(folder.name))]
    found = {int(named[1]): root / named[0] for named in names}
    for step in sorted(step for step in found if step <= newest)[:-keep]:
        if found[step].name != best:
            shutil.rmtree(found[step])
