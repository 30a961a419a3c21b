"""Clients that send their headers slowly, or never, do not keep a connection."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0
"""Seconds in which a request's headers must arrive. Bodies: `wire.BODY_S`; idle connections: uvicorn's keep-alive."""


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol, which has no limit of its own here."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request's headers."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Stop waiting once the headers are whole; begin again with the next request's first bytes."""
        super().data_received(data)
        if self._has_request():
            self._stop_waiting()
        elif self._headers_due is None:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_headers(self) -> None:
        self._headers_due = self.loop.call_later(HEADERS_S, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _too_slow(self) -> None:
        self._headers_due = None
        if not self._has_request() and not self.transport.is_closing():
            self.transport.close()
