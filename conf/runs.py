"""`crossthink runs`: the runs of a folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RunsConfig:
    """The runs under a folder, newest first: how far each is, what it reached, what its config differs in."""

    folder: str = "runs"
    """Where run folders are, up to three levels deep."""
    json: bool = False
    """Print JSON."""
