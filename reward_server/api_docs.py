"""The OpenAPI description of /v1/score: shown at /docs, and what the fuzz test draws its requests from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from conf.reward import ShapingConfig
from reward_server.verdicts import KINDS, STATUSES

DESCRIPTION = """Scores boxed answers: multiple choice, short text, mathematics (the reward of arXiv 2504.13941).

`reward` is null for `bad_gold` and `error`: such items are invalid, not zero. Every rule: docs/rewards.md.
"""

# Narrower than what is taken. JSON Schema's \s lacks a few of Python's blanks.
_BLANKS = r"\s\x00-\x1f\x85"
_LABEL = rf"""^[^{_BLANKS},(\[$"'“‘«„`\\]( ?[^{_BLANKS},])*$"""

ITEM = {
    "type": "object",
    "required": ["id", "kind", "response", "ground_truth"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "description": "The caller's name for it, given back unchanged."},
        "kind": {"type": "string", "enum": list(KINDS)},
        "response": {"type": "string", "description": "Everything the model wrote, special tokens removed."},
        "ground_truth": {
            "description": "The right answer, or several of which any is right. Labels that must all be given: A,C.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        },
        "options": {
            "description": "Label to text, of a multiple-choice question. A label has no brackets or quotes around it.",
            "anyOf": [
                {
                    "type": "object",
                    "propertyNames": {"pattern": _LABEL},
                    "additionalProperties": {"type": "string"},
                    "minProperties": 1,
                },
                {"type": "null"},
            ],
        },
        "finish_reason": {
            "description": '"length" where the response was cut off.',
            "anyOf": [{"type": "string"}, {"type": "null"}],
        },
        "think_prefilled": {
            "description": "The prompt already ended in <think>.",
            "anyOf": [{"type": "boolean"}, {"type": "null"}],
        },
        "source": {"description": "For shaping.source_weights.", "anyOf": [{"type": "string"}, {"type": "null"}]},
        "response_tokens": {
            "description": "For shaping.length_penalty.",
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}],
        },
    },
}

VERDICT = {
    "type": "object",
    "required": ["id", "reward", "accuracy", "format", "extracted", "status", "elapsed_ms"],
    "properties": {
        "id": {"type": "string"},
        "reward": {"anyOf": [{"type": "number"}, {"type": "null"}], "description": "null: invalid, not zero."},
        "accuracy": {"anyOf": [{"type": "integer", "enum": [0, 1]}, {"type": "null"}]},
        "format": {"type": "integer", "enum": [0, 1]},
        "extracted": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "Content of the box."},
        "status": {"type": "string", "enum": list(STATUSES)},
        "elapsed_ms": {"type": "number"},
    },
}

_EXAMPLE_REQUEST = {
    "request_id": "step-12-chunk-3",
    "items": [
        {
            "id": "a",
            "kind": "math",
            "response": "<think>Half of pi.</think> \\boxed{\\frac{\\pi}{2}}",
            "ground_truth": "\\pi/2",
        },
        {
            "id": "b",
            "kind": "mcq",
            "response": "<think>It is Paris.</think> \\boxed{B. Paris}",
            "ground_truth": "B",
            "options": {"A": "Rome", "B": "Paris"},
        },
        {"id": "c", "kind": "open", "response": "\\boxed{photosynthesis}", "ground_truth": ["photosynthesis"]},
    ],
}
_EXAMPLE_REPLY = {
    "rules_hash": "0f3c5a9d2b11",
    "items": [
        {
            "id": "a",
            "reward": 1.0,
            "accuracy": 1,
            "format": 1,
            "extracted": "\\frac{\\pi}{2}",
            "status": "correct",
            "elapsed_ms": 2.4,
        },
        {
            "id": "b",
            "reward": 1.0,
            "accuracy": 1,
            "format": 1,
            "extracted": "B. Paris",
            "status": "correct",
            "elapsed_ms": 0.04,
        },
        {
            "id": "c",
            "reward": 0.0,
            "accuracy": 1,
            "format": 0,
            "extracted": "photosynthesis",
            "status": "bad_format",
            "elapsed_ms": 0.02,
        },
    ],
}

SCORE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["items"],
                    "additionalProperties": False,
                    "properties": {
                        "items": {"type": "array", "items": ITEM},
                        "request_id": {
                            "description": "A repeated request with this id is not judged or counted again.",
                            "anyOf": [{"type": "string", "minLength": 1, "maxLength": 200}, {"type": "null"}],
                        },
                    },
                },
                "examples": {"three kinds": {"value": _EXAMPLE_REQUEST}},
            }
        },
    }
}


def _error(meaning: str, example: str) -> dict[str, Any]:
    schema = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
    return {
        "description": meaning,
        "content": {"application/json": {"schema": schema, "example": {"detail": example}}},
    }


SCORE_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "As many verdicts as items, in the same order.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["rules_hash", "items"],
                    "properties": {"rules_hash": {"type": "string"}, "items": {"type": "array", "items": VERDICT}},
                },
                "example": _EXAMPLE_REPLY,
            }
        },
    },
    401: _error("No token, or a wrong one.", "Authorization: this server needs `Authorization: Bearer TOKEN`"),
    408: _error("The body did not arrive in time.", "body: did not arrive within 60 s"),
    413: _error("Too many or too long.", "items: 9000 is above max_items=8192; send fewer at a time"),
    422: _error("A field is missing or wrong.", 'items[3].kind: "choice" is not one of mcq, open, math'),
    429: _error("The queue is full; see Retry-After.", "queue: 65000 items are under way, at most max_queue=65536"),
}


def shaping(config: ShapingConfig) -> dict[str, Any]:
    """The shaping that differs from the paper's reward; empty where nothing does."""
    return asdict(config) if config != ShapingConfig() else {}
