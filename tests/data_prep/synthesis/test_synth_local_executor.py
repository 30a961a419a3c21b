"""Tasks of a stage in processes here: what one of them ends with, and what becomes of the others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("datatrove")
from crossthink.errors import UserError
from data_prep.synthesis.calls.budget import BudgetReached
from data_prep.synthesis.local_executor import LocalExecutor


class Step:
    """Task 0 fails while task 1 is at work; every other one writes a file."""

    def __init__(self, folder: Path, failure: UserError, work_s: float) -> None:
        self.folder, self.failure, self.work_s = folder, failure, work_s

    def __call__(self, data: object, rank: int, world: int) -> None:
        if rank == 0:
            while not (self.folder / "begun").exists():
                time.sleep(0.01)
            raise self.failure
        if rank == 1:
            (self.folder / "begun").touch()
            time.sleep(self.work_s)
        (self.folder / str(rank)).touch()


def executor(folder: Path, failure: UserError, workers: int = 2, work_s: float = 1.0) -> LocalExecutor:
    return LocalExecutor([Step(folder, failure, work_s)], 3, workers, str(folder / "logs"), start_method="fork")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_at_its_budget_ends_alone(workers: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if workers == 1:
        (tmp_path / "begun").touch()  # one after the other: task 0 would wait for ever
    executor(tmp_path, BudgetReached("writer.budget.tokens=9"), workers).run()
    assert capfd.readouterr().out.count("synth: writer.budget.tokens=9\n") == 1
    assert (tmp_path / "1").exists() and (tmp_path / "2").exists()
    assert executor(tmp_path, BudgetReached("still")).get_incomplete_ranks() == [0]


def test_any_other_failure_ends_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the endpoint refuses everybody"):
        executor(tmp_path, UserError("the endpoint refuses everybody"), work_s=3600).run()
    assert not (tmp_path / "1").exists()
