"""Tests of an actor run where its engine is: test_megatron_*.py in .venv, test_aligner_*.py in .venv-nemo."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.environment import ENGINES, missing


class Elsewhere(pytest.File):
    """A file of tests whose imports this environment cannot satisfy."""

    lacks: str

    def collect(self) -> list[pytest.Item]:
        pytest.skip(self.lacks)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Elsewhere | None:
    """Pass over an actor's file without importing it, where its engine is missing."""
    actor = module_path.name.removeprefix("test_").partition("_")[0]
    lacks = missing(actor) if actor in ENGINES else None
    if lacks is None:
        return None
    found = Elsewhere.from_parent(parent, path=module_path)
    found.lacks = lacks
    return found
