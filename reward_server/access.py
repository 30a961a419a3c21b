"""Who may ask: the shared token, in the header or, for clients that can send none, in the path."""

from __future__ import annotations

import hmac
from typing import Any

from starlette.responses import RedirectResponse

from reward_server.wire import AsciiJson

OPEN = frozenset(["/healthz", "/readyz"])
"""Paths that need no token: an orchestrator's probes."""


class TokenGate:
    """ASGI middleware: 401 unless the request carries the token, as `Authorization: Bearer TOKEN` or `/t/TOKEN/PATH`.

    Args:
        app: what is behind the gate.
        token: the shared secret; None: everybody may ask, and `/t/…` is no path.
    """

    def __init__(self, app: Any, token: str | None):
        self._app, self._token = app, token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] != "http" or self._token is None or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        given, path = _from_path(scope["path"])
        if given is None:
            header = dict(scope["headers"]).get(b"authorization", b"")
            given, path = header.removeprefix(b"Bearer ").decode("latin-1"), scope["path"]
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode()):
            detail = "Authorization: this server needs `Authorization: Bearer TOKEN` with its token=, or /t/TOKEN/PATH"
            await AsciiJson({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        if not path:  # the page's links are relative to the slash
            await RedirectResponse(f"/t/{self._token}/")(scope, receive, send)
            return
        prefix = scope["path"].removesuffix(path)  # what /docs needs to find its schema
        await self._app({**scope, "path": path, "raw_path": path.encode(), "root_path": prefix}, receive, send)


def _from_path(path: str) -> tuple[str | None, str]:
    """(token, rest of the path) of `/t/TOKEN/REST`; (None, path) of any other."""
    if not path.startswith("/t/"):
        return None, path
    token, slash, rest = path[len("/t/") :].partition("/")
    return token, slash + rest
