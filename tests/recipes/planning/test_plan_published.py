"""The plan against published steps: how far off the defaults are, and that the rows are what was published."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))
from benchmarks import plan_published as bench
from recipes.planning.memory import fit, memory
from recipes.planning.parameters import all_parameters

TOLERANCE = 0.15
"""Largest error that docs/plan.md may claim; the defaults were chosen on these rows."""


@pytest.mark.parametrize("row", bench.ROWS, ids=lambda row: f"{row.model}-{row.source}-{row.gpus}")
def test_every_published_step(row: bench.Row) -> None:
    found = bench.planned(row)
    if row.gate:
        assert found.step_s < row.seconds
    else:
        assert abs(bench.error(row, found)) < TOLERANCE
        # The page's own rate, by its own definition.
        assert found.tokens_per_second_per_gpu * found.step_s == pytest.approx(row.rate * row.seconds, rel=0.001)


def test_the_models_are_the_published_ones() -> None:
    sizes = {row.model: all_parameters(bench.job_of(row).shape) for row in bench.ROWS}
    assert sizes == {"Llama-3.1-8B": 8_030_261_248, "Qwen3-32B": 32_762_123_264, "Qwen2.5-7B": 7_615_616_512}


@pytest.mark.parametrize("row", bench.ROWS, ids=lambda row: f"{row.model}-{row.source}-{row.gpus}")
def test_what_ran_is_planned_to_fit_but_for_what_our_refit_holds(row: bench.Row) -> None:
    job = bench.job_of(row)
    phases = [phase for phase in memory(job) if phase.phase in ("log_probs", "train", "rollout_server")]
    assert fit(job, phases) == []


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == len(bench.ROWS) + 1
    assert "8 published steps: root mean square error" in lines[-1]
    monkeypatch.setattr(bench, "ROWS", (bench.ROWS[0], bench.ROWS[-1]))
    assert bench.main(["efficiency.decode=0.05"]) == 1  # the gate does not hold any more
