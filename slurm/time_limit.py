"""SLURM's time limits."""

from __future__ import annotations

from crossthink.errors import ConfigError


def seconds_of(limit: str) -> int:
    """A SLURM time limit in seconds: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    Raises:
        ConfigError: it is none of these.
    """
    days, dash, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isascii() and part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise ConfigError(
            f"cluster.time={limit} is no time limit. Allowed: minutes, hours:minutes:seconds, days-hours."
        )
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(numbers) == 1:
        return numbers[0] * 60
    hours, minutes, seconds = [0, *numbers][-3:]
    return (hours * 60 + minutes) * 60 + seconds
