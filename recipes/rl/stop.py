"""The wish to stop: a signal that is heard between two steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from crossthink.procs import PARENT


class StopRequest:
    """Turns the first SIGINT or SIGTERM inside the block into a flag, so that the running step is finished and saved.

    A second one, or one after the block, does what it did before. But a rank that `crossthink train` has started lets
    later ones pass: it may get one wish twice, from a service manager and from its launcher, which kills it where its
    user insists.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if PARENT not in os.environ:
            self.__exit__()
