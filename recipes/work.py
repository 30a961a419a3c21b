"""Something done in a thread beside others, without a collective, so that it never meets those of training."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Work:
    """A function in a thread, and what it raised."""

    def __init__(self, function: Callable[[], None], name: str) -> None:
        """Begin. `name` is the thread's."""
        self.error: BaseException | None = None
        self._function = function
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def wait(self, most_s: float | None = None) -> bool:
        """Until the function has returned or raised, or for `most_s` seconds. Returns whether it has."""
        self._thread.join(most_s)
        return not self._thread.is_alive()

    def is_running(self) -> bool:
        """Whether it has not yet."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:  # raised again by the thread that asks
            self.error = error
