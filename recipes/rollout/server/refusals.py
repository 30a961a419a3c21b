"""What the server answers instead of doing as asked."""

from __future__ import annotations

from reward_server.service import Refused

RETRY_S = 1
"""Retry-After of what may pass soon: a full queue, weights that are still to come."""


class Conflict(Refused):
    """A request that does not fit the weights as they are; the reply's `version` says which they are."""

    def __init__(self, status: int, detail: str, version: int | None):
        super().__init__(status, detail)
        self.version = version


def later(status: int, detail: str) -> Refused:
    """A refusal with Retry-After."""
    return Refused(status, detail, RETRY_S)
