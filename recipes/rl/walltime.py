"""The job's end: whether there is time for one more step and the save after it. Pure functions and their memory.

Batch systems end a job at its time limit, with little or no warning. Whoever starts the job says when that is, in
`CROSSTHINK_JOB_END`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime

from crossthink.errors import ConfigError

JOB_END = "CROSSTHINK_JOB_END"
LAST_STEPS = 20  # whose longest stands for the next step
RESERVE = 1.5  # times what was measured: steps and file systems vary


def job_end(environment: Mapping[str, str]) -> float | None:
    """When the job ends, in seconds since the epoch; None where `CROSSTHINK_JOB_END` is unset or empty.

    Raises:
        ConfigError: it is neither a number of seconds nor ISO 8601 with a zone.
    """
    text = environment.get(JOB_END, "").strip()
    if not text:
        return None
    try:
        end = float(text)
    except ValueError:
        end = _iso_seconds(text)
    if not math.isfinite(end):
        raise ConfigError(
            f"{JOB_END}={text} is not allowed. Allowed: seconds since 1970-01-01 UTC (1790000000), or ISO 8601 with a "
            "zone (2026-09-21T14:13:20+00:00)."
        )
    return end


def _iso_seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return math.nan
    return moment.timestamp() if moment.tzinfo else math.nan


def margin_s(steps_s: Iterable[float], save_s: float) -> float:
    """Seconds that a step and the save after it may take: (longest of `steps_s` + `save_s`) × 1.5."""
    return RESERVE * (max(steps_s, default=0.0) + save_s)


class Walltime:
    """Remembers how long steps took, and says whether the job's end is too near for another."""

    def __init__(self, end: float | None, first_guess_s: float) -> None:
        """
        Args:
            end: when the job ends, in seconds since the epoch; None: never.
            first_guess_s: seconds of a save, until one was measured.
        """
        self.end = end
        self.first_guess_s = first_guess_s
        self._steps_s: deque[float] = deque(maxlen=LAST_STEPS)

    def step_took(self, seconds: float) -> None:
        """Note a finished step."""
        self._steps_s.append(seconds)

    def margin_s(self, save_s: float | None) -> float:
        """See `margin_s`. `save_s` is what the last save took, if there was one."""
        return margin_s(self._steps_s, self.first_guess_s if save_s is None else save_s)

    def is_near(self, now: float, save_s: float | None) -> bool:
        """Whether a step that starts at `now` (seconds since the epoch) may not be saved before the job's end."""
        return self.end is not None and now + self.margin_s(save_s) > self.end
