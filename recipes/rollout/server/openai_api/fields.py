"""Reading the parameters of an OpenAI request one by one; what nobody read at the end is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from recipes.rollout.server import bodies
from recipes.rollout.server.openai_api.errors import ApiError
from reward_server.service import Refused
from reward_server.verdicts import show

MOST_STOPS = 16
"""Stop strings of one request."""
Absent = TypeVar("Absent", bound="int | None")


class Fields:
    """The parameters of one request. null is the same as absent.

    Args:
        body: the request's JSON object.
    """

    def __init__(self, body: Mapping[str, Any]):
        self._left = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str, default: Any = None) -> Any:
        """A parameter as it is."""
        return self._left.pop(name, default)

    def whole(self, name: str, default: Absent, least: int, most: int) -> int | Absent:
        """A whole number within bounds. Raises ApiError."""
        return self._checked(name, default, lambda value: bodies.whole(value, name, least, most))

    def temperature(self) -> float:
        """`temperature`, 1 where absent. Raises ApiError."""
        return self._checked("temperature", 1.0, lambda value: bodies.temperature(value, "temperature"))

    def top_p(self) -> float:
        """`top_p`, 1 where absent. Raises ApiError."""
        return self._checked("top_p", 1.0, lambda value: bodies.top_p(value, "top_p"))

    def flag(self, name: str) -> bool:
        """True or false, false where absent. Raises ApiError."""
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise ApiError(400, f"{name}: {show(value)} is neither true nor false", name)
        return value

    def stop(self) -> tuple[str, ...]:
        """`stop`: a string or a list of some, none of them empty. Raises ApiError."""
        value = self.take("stop", [])
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or len(found) > MOST_STOPS or not all(isinstance(s, str) and s for s in found):
            raise ApiError(400, f"stop: {show(value)} is no string, nor a list of at most {MOST_STOPS}", "stop")
        return tuple(found)

    def only(self, name: str, *neutral: Any) -> None:
        """A parameter that is known and not supported: it may have a value that changes nothing. Raises ApiError."""
        value = self.take(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in neutral):
            allowed = " or ".join(show(one) for one in neutral)
            raise ApiError(400, f"{name}: {show(value)} is not supported here; leave it out, or {allowed}", name)

    def end(self) -> None:
        """Refuse what nobody read. Raises ApiError."""
        if self._left:
            name = min(self._left)
            raise ApiError(400, f"{show(name)}: unknown or unsupported parameter", name, "unknown_parameter")

    def _checked(self, name: str, default: Any, read: Any) -> Any:
        value = self.take(name)
        if value is None:
            return default
        try:
            return read(value)
        except Refused as refusal:
            raise ApiError(400, refusal.detail, name) from refusal


def is_text(value: Any) -> bool:
    """A string that can be written in UTF-8: no lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
