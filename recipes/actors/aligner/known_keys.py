"""Config keys that NeMo, NeMo-Aligner and megatron-core know.

NeMo's configs have no schema: it passes over a misspelled key in silence. known_keys.json lists what the code reads,
with source, file and line; `python -m recipes.actors.aligner.list_keys` makes it. The tests hold every key that
`config.py` gives to NeMo to this list.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("known_keys.json")
OPTIMIZER = "model.optim"  # its keys depend on the optimizer that its `name` picks


@functools.cache
def known_keys() -> dict[str, str]:
    """Every known dotted key with the places that know it, as `source:file:line`, separated by blanks.

    `key.*` stands for whatever is below `key`; `model.optim@NAME.key` is known to the optimizer NAME alone.
    """
    return json.loads(LIST.read_text("utf-8"))["keys"]


def unknown(config: Mapping[str, Any], section: str = "") -> list[str]:
    """Dotted keys of a config that nobody reads.

    Args:
        config: the whole config, or one section of it.
        section: the section's own dotted name, such as `model`; "" is the whole config.
    """
    return [key for key, among in _walk(config, f"{section}." if section else "") if key not in among]


def _walk(
    config: Mapping[str, Any], above: str, among: frozenset[str] | None = None
) -> Iterator[tuple[str, frozenset[str]]]:
    """Dotted keys of a config, each with the keys that are known where it stands."""
    among = _among("") if among is None else among
    if above == f"{OPTIMIZER}.":
        among = _among(str(config.get("name")))
    for name, value in config.items():
        key = f"{above}{name}"
        yield key, among
        if isinstance(value, Mapping) and key in among and f"{key}.*" not in among:
            yield from _walk(value, f"{key}.", among)


@functools.cache
def _among(optimizer: str) -> frozenset[str]:
    """Known keys, sections included, under this optimizer."""
    mine = f"{OPTIMIZER}@{optimizer}."
    keys = {key.replace(mine, f"{OPTIMIZER}.") for key in known_keys() if "@" not in key or key.startswith(mine)}
    sections = {key[:place] for key in keys for place, sign in enumerate(key) if sign == "."}
    return frozenset(keys | sections)
