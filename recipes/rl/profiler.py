"""A torch.profiler trace of some steps, with the loop's phases as ranges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from recipes.run_files import PROFILE


class StepTrace:
    """Traces the steps a to b into `out/profile/steps_A-B_rank_R.json`, which chrome://tracing and Perfetto show.

    A run that begins or ends between a and b traces what there is of them, under the numbers of those steps.
    """

    def __init__(self, out: Path, steps: Sequence[int] | None) -> None:
        """
        Args:
            out: the run folder.
            steps: [a, b], or None to trace nothing.
        """
        self.folder = out / PROFILE
        self.first, self.last = steps or (0, 0)
        self.traced: list[int] = []
        self.profile: profile | None = None

    def begin(self, step: int) -> None:
        """Before the step."""
        if not self.first <= step <= self.last:
            return
        if self.profile is None:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            self.profile = profile(activities=activities)
            self.profile.start()
        self.traced.append(step)

    def end(self, step: int) -> None:
        """After the step; writes the trace after the last one."""
        if self.profile is not None and step == self.last:
            self._write()

    def __enter__(self) -> StepTrace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.profile is not None:
            self._write()

    def _write(self) -> None:
        assert self.profile is not None
        found, self.profile = self.profile, None
        found.stop()
        self.folder.mkdir(exist_ok=True)
        name = f"steps_{self.traced[0]}-{self.traced[-1]}_rank_{dist.get_rank()}.json"
        found.export_chrome_trace(str(self.folder / name))
