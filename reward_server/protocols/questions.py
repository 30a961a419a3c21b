"""What a trainer's row says of a question: how its answers are judged, by which golds, among which options."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from reward_server.verdicts import Item, show

FIELDS = ("kind", "ground_truth", "options", "source", "think_prefilled", "id")
"""What a row may say. `kind` and `ground_truth` must be there."""


def read_question(label: Any) -> Item:
    """The question of a `reward_item`, as an item whose response is still empty.

    Args:
        label: a JSON object with `FIELDS`, or its text: what `crossthink prep export=[...]` writes into verl's
            `reward_model.ground_truth`, OpenRLHF's `label` and NeMo-RL's `output`.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    if isinstance(label, str | bytes):
        try:
            label = json.loads(label)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{show(_text(label))} is not JSON ({error}); a reward_item is expected, such as "
                '{"kind": "math", "ground_truth": ["5"], "options": null}'
            ) from error
    if not isinstance(label, Mapping):
        raise ValueError(f"{show(label)} is not a JSON object with {', '.join(FIELDS[:3])}")
    for name in label:
        if name not in FIELDS:
            raise ValueError(f"{show(name)}: unknown field, allowed are {', '.join(FIELDS)}")
    return Item.from_json({"id": "", "response": "", **label, "options": read_options(label.get("options"))})


def answered(question: Item, ident: str, response: str, **fields: Any) -> Item:
    """The item to judge: the question with a response. `fields` are further fields of `Item`."""
    return dataclasses.replace(question, id=ident, response=response, **fields)


def read_options(value: Any) -> dict[str, str] | None:
    """Options as an object of label to text, from any of the shapes in which rows hold them.

    Args:
        value: an object; a list of `{"label", "text"}`; a list of one-entry objects as NeMo-Gym's mcqa has them
            (entries without a text are left out, as there); the two lists `{"label": [...], "text": [...]}`; or None.

    Raises:
        ValueError: another shape, or a label that stands twice.
    """
    if value is None or value == []:
        return None
    if isinstance(value, Mapping):
        if set(value) != {"label", "text"} or isinstance(value["label"], str):
            return dict(value)
        if value["label"] is None and value["text"] is None:
            return None
        pairs = _columns(value)
    elif isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value):
        pairs = [pair for one in value for pair in _pairs(one)]
    else:
        raise ValueError(
            f"options: {show(value)} is neither an object of label to text, a list of label and text, nor null"
        )
    options = {}
    for label, text in pairs:
        if not isinstance(label, str):
            raise ValueError(f"options: the label {show(label)} is not a string")
        if label in options:
            raise ValueError(f"options: the label {show(label)} stands twice in {show(value)}")
        options[label] = text
    return options


def _columns(value: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    labels, texts = value["label"], value["text"]
    if not isinstance(labels, list | tuple) or not isinstance(texts, list | tuple) or len(labels) != len(texts):
        raise ValueError(f"options: {show(dict(value))} holds no two lists of one length")
    return list(zip(labels, texts, strict=True))


def _pairs(entry: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    if set(entry) == {"label", "text"}:
        return [(entry["label"], entry["text"])]
    return [(label, text) for label, text in entry.items() if text is not None]


def _text(label: str | bytes) -> str:
    return label if isinstance(label, str) else label.decode("utf-8", "replace")
