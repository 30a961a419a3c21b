"""Errors in OpenAI's shape, which its clients turn into exceptions by status."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from reward_server.service import Refused
from reward_server.verdicts import show
from reward_server.wire import AsciiJson


class ApiError(Exception):
    """A request that an OpenAI endpoint refuses.

    Args:
        status: the HTTP status.
        message: the parameter, its value and what is allowed.
        param: the parameter's name; None where none is to blame.
        code: OpenAI's word for the cause, where it has one.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def to_json(self) -> dict[str, Any]:
        """The reply's body."""
        kinds = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def no_such_model(wanted: Any, served: str) -> ApiError:
    """The refusal of any model but the one that is served."""
    detail = f"model: {show(wanted)} is not served here; {show(served)} is"
    return ApiError(404, detail, "model", "model_not_found")


class OpenaiRoute(APIRoute):
    """A route whose refusals are in OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its refusals turned into replies."""
        handle = super().get_route_handler()

        async def handle_or_refuse(request: Request) -> Response:
            try:
                return await handle(request)
            except ApiError as error:
                return AsciiJson(error.to_json(), error.status)
            except Refused as refusal:
                status = 400 if refusal.status == 422 else refusal.status  # OpenAI knows no 422
                headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
                return AsciiJson(ApiError(status, refusal.detail).to_json(), status, headers)

        return handle_or_refuse
