"""What `manifest.json` says of a pool: where every row is from, under which rules, and what became of the others.

Neither time nor output folder stands in it: the same input gives the same manifest.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import crossthink
from conf.prep import PrepConfig
from crossthink.files import sha256_file
from data_prep import tokens
from data_prep.benchmarks import BENCHMARKS
from data_prep.decontaminate import DECONTAMINATE_VERSION
from data_prep.dedup import DEDUP_VERSION
from data_prep.filters import FILTER_VERSION
from data_prep.golds import MATCH
from data_prep.sources import get_source
from data_prep.sources.base import strictest_licence
from data_prep.steps import Tally
from data_prep.templates import TEMPLATE_VERSION, load_prompts
from reward_server.verdicts import rules_hash

# Keys that change no byte of the rows.
_NO_RESULT = ("out", "workers", "defaults")


def build(
    config: PrepConfig,
    finished: Mapping[str, Mapping[str, Any]],
    tallies: Mapping[str, Tally],
    contamination: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest but for the rows' own hashes and counts.

    Args:
        config: of the run.
        finished: what `prep` recorded of every source, in order.
        tallies: what became of every source's rows.
        contamination: what `benchmarks` or `no_benchmarks` gave.
    """
    wanted = plain(config)
    for key in _NO_RESULT:
        wanted.pop(key, None)
    return {
        "licence": strictest_licence({facts["licence"] for facts in finished.values()}),
        "left_out_by_licence": [name for name in config.sources if name not in finished],
        "sources": {name: _source(name, facts, tallies[name]) for name, facts in finished.items()},
        "decontamination": {**contamination, "removed": _matrix(finished)},
        "prompts": load_prompts(config.prompts.folder).describe(),
        "tokenizer": tokens.describe(config.prompts.tokenizer),
        **versions(),
        "seed": config.seed,
        "command": "prep",
        "config": wanted,
    }


def versions() -> dict[str, Any]:
    """The versions of everything that rows depend on."""
    return {
        "template_version": TEMPLATE_VERSION,
        "filter_version": FILTER_VERSION,
        "decontaminate_version": DECONTAMINATE_VERSION,
        "dedup_version": DEDUP_VERSION,
        "rules_hash": rules_hash(MATCH),
        "packages": {
            "crossthink": crossthink.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("numpy", "pyarrow", "orjson", "rensa", "tokenizers")},
        },
    }


def benchmarks(found: Mapping[str, Sequence[Path]], items: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Which benchmarks were checked, by the hashes of their files, and which were not there.

    Args:
        found: the files and folders of every benchmark.
        items: how many questions of each were indexed, and how many are too short to be found.
    """
    absent = [name for name, paths in found.items() if not paths]
    return {
        "complete": not absent,
        "absent": absent,
        "benchmarks": {
            name: {
                **items[name],
                "files": files([file for path in paths for file in BENCHMARKS[name].local_files(path)]),
            }
            for name, paths in found.items()
            if paths
        },
    }


def no_benchmarks() -> dict[str, Any]:
    """What is said where nothing was checked."""
    return {"complete": False, "absent": list(BENCHMARKS), "benchmarks": {}}


def files(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and hash of files."""
    return [{"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths]


def plain(config: PrepConfig) -> dict[str, Any]:
    """The config as JSON-ready values."""
    found = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    assert isinstance(found, dict)
    found.pop("defaults", None)
    return found


def _source(name: str, facts: Mapping[str, Any], tally: Tally) -> dict[str, Any]:
    return {
        # Facts about the public dataset, not about the files, whose identity is their hash.
        "dataset": get_source(name).describe(),
        "revision": facts["revision"],
        "licence": facts["licence"],
        "files": facts["inputs"],
        "rows_in": tally.rows_in,
        "rows_out": facts["rows"],
        "steps": tally.counts(),
    }


def _matrix(finished: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Rows of every source that stood in every benchmark; a row that stood in several counts in each."""
    return {
        name: {
            benchmark: sum(1 for row in facts["contaminated"] if benchmark in row["benchmarks"])
            for benchmark in BENCHMARKS
        }
        for name, facts in finished.items()
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
