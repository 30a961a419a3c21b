"""A JSON object out of a reply, checked against its schema."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from crossthink.endpoint import writable

THINK_END = "</think>"
FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)


class NoObject(ValueError):
    """The reply holds no object that fits; says why."""


def read_object(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The object that a reply is, after its reasoning, bare or inside one fence of code.

    Nothing is repaired: words around the object, two objects, a key given twice, NaN or a comment are a reply that
    did not keep to what was asked. [ours]

    Args:
        text: the reply, with its reasoning.
        schema: JSON schema that the object must fit.

    Raises:
        NoObject: it is none, or it does not fit.
    """
    answer = text.rpartition(THINK_END)[2].strip()
    fenced = FENCE.fullmatch(answer)
    try:
        value = _parsed(fenced[1] if fenced else answer)
        misfit = next(_validator(json.dumps(schema, sort_keys=True)).iter_errors(value), None)
    except NoObject:
        raise
    except (ValueError, RecursionError) as error:
        raise NoObject(f"no JSON: {error}") from error
    if misfit is not None:
        raise NoObject(f"does not fit its schema at {misfit.json_path}: {misfit.message[:200]}")
    return value


def _parsed(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    if not isinstance(value, dict):
        raise NoObject("JSON, but no object")
    # An escape in JSON can be half a surrogate pair, too.
    return json.loads(writable(json.dumps(value, ensure_ascii=False)))


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(json.loads(schema))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large")
    return value
