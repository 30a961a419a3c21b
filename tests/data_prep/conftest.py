"""Files of rows made by hand, and the folder of real samples where a checkout has one beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from raw_rows import RAW, write_jsonl

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


@pytest.fixture
def raw_file(tmp_path):
    """A function: write rows (by default the hand-made ones) of a source to a file and return its path."""

    def write(name: str, rows: list[dict] | None = None) -> Path:
        return write_jsonl(tmp_path / f"{name}.jsonl", RAW[name] if rows is None else rows)

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real samples; without it the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip("no shared/data folder beside the repository: the real rows are not part of it")
    return SHARED


@pytest.fixture
def raw_rows() -> dict[str, list[dict]]:
    """Deep copies of the hand-made rows, by source."""
    return json.loads(json.dumps(RAW))
