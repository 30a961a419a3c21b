"""`benchmarks/gpu_check.py` on the CPU: a case gives every figure of its row, and the engine equals transformers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_check


def test_a_case_and_its_row(tmp_path: Path) -> None:
    found = gpu_check.in_its_own_process("small/bfloat16/full", tmp_path)
    assert "error" not in found, found["error"]
    assert found["loss"][-1] < found["loss"][0], "steps on one batch lower its loss"
    assert found["mfu"] is None and found["tflops"]["train"] > 0
    row = gpu_check.table_row({"shape": "small", "number_format": "bfloat16", "recompute": "full", **found})
    assert row.count("|") == next(gpu_check.table_head()).count("|")


def test_parity(tmp_path: Path) -> None:
    found = gpu_check.in_its_own_process("parity", tmp_path)
    assert found.keys() == gpu_check.PARITY.keys()
    for name, limit in gpu_check.PARITY.items():
        assert found[name] == pytest.approx(0.0, abs=limit)


def test_a_case_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = gpu_check.in_its_own_process("parity", tmp_path)
    assert found.keys() == {"error"} and found["error"]
