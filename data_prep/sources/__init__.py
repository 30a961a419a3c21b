"""The sources, one reader a file: the six of the paper (Table 1) and whatever is added beside them."""

from __future__ import annotations

import importlib
import pkgutil

from crossthink.errors import ConfigError, did_you_mean
from data_prep.sources.base import Source

_PAPER = ("mmlu_train", "syn_qa", "natural_reasoning", "numina_math", "personaskill_math", "math")  # Table 1's order


def _find() -> dict[str, Source]:
    """Every module here but the base defines a `SOURCE`; those of the paper come first."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    ordered = sorted(names, key=lambda name: (_PAPER.index(name) if name in _PAPER else len(_PAPER), name))
    sources = (importlib.import_module(f"{__name__}.{name}").SOURCE for name in ordered)
    return {source.name: source for source in sources}


# A new source is a file here and a conf/sources/NAME.yaml: see docs/data.md.
SOURCES: dict[str, Source] = _find()


def get_source(name: str) -> Source:
    """The source of that name.

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    if name not in SOURCES:
        raise ConfigError(f"sources: no source '{name}'. Allowed: {', '.join(SOURCES)}.{did_you_mean(name, SOURCES)}")
    return SOURCES[name]
