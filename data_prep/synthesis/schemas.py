"""The JSON schemas of what a model is asked to write. Solutions have none: see `prompts.py`."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}


def draft_mcq(options: int) -> dict[str, Any]:
    """A multiple-choice question with so many options: `question`, `options` and `answer`, one of the options."""
    texts = {"type": "array", "items": _TEXT, "minItems": options, "maxItems": options}
    return _object({"question": _TEXT, "options": texts, "answer": _TEXT})


def draft_math() -> dict[str, Any]:
    """A mathematical problem: `question`."""
    return _object({"question": _TEXT})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """Every property is needed, no other allowed: what endpoints with strict schemas demand."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
