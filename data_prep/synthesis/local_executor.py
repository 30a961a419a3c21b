"""datatrove's local executor for a stage: its tasks in processes here."""

from __future__ import annotations

from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.utils.stats import PipelineStats

from conf.synth import SynthConfig
from data_prep.synthesis.calls.budget import BudgetReached
from data_prep.synthesis.stages import Stage, logs_of, steps_of


class LocalExecutor(LocalPipelineExecutor):
    """A task that has used its share of a budget ends alone, as one of an array of jobs does.

    datatrove ends the others with it, amid calls that are paid for and would have to be paid for again.
    """

    def _launch_run_for_rank(self, rank: int, *queue_and_counters: Any, **named: Any) -> PipelineStats:
        try:
            return super()._launch_run_for_rank(rank, *queue_and_counters, **named)
        except BudgetReached as error:
            print(f"synth: {error}", flush=True)
            return PipelineStats()


def local_executor(config: SynthConfig, stage: Stage) -> LocalExecutor:
    """Runs a stage's unfinished tasks; those that reached a budget are unfinished when it has run."""
    return LocalExecutor(
        pipeline=steps_of(config, stage),
        tasks=stage.tasks,
        workers=min(config.workers, stage.tasks),
        logging_dir=str(logs_of(config, stage.name)),
        start_method="fork",  # children of this process, which end with it: those of a fork server would go on
    )
