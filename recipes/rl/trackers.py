"""Experiment trackers beside the run's own records: Weights & Biases and MLflow.

A resumed run goes on in the tracker's run that it began: `out/tracking.json` holds the ids. Steps that are made again
after a kill are not logged again. Whatever a tracker loses stands in metrics.jsonl.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from conf.train import TrackingConfig
from crossthink.errors import UserError
from crossthink.files import write_json
from recipes.run_files import TRACKING

PARAMS_AT_ONCE = 100  # MLflow's limit of a request
LONGEST_PARAM = 500  # characters; the limit of MLflow's older servers


class Tracker(Protocol):
    """Takes the numbers of a run."""

    resumed: bool
    """Whether it has the numbers of an earlier part of this run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """The numbers of one step."""
        ...

    def close(self) -> None:
        """End the tracker's part of this process."""
        ...


class WandbTracker:
    """A run of Weights & Biases. Its mode and address are those of the WANDB_ variables."""

    def __init__(self, out: Path, tracking: TrackingConfig, config: Mapping[str, Any], known: str | None) -> None:
        """
        Args:
            out: the run folder; W&B's own files go into it.
            tracking: `tracking.*`.
            config: the run's config.
            known: id of the run to go on with; None makes one.

        Raises:
            UserError: W&B refuses; says why.
        """
        import wandb

        self.id = known or uuid.uuid4().hex
        self.resumed = known is not None
        try:
            self.run = wandb.init(
                project=tracking.project, name=tracking.name or out.resolve().name, id=self.id,
                resume="allow" if known else None, dir=str(out), config=dict(config),
            )  # fmt: skip
        except wandb.errors.Error as error:
            raise UserError(f"tracking.wandb=true, but W&B does not start: {error}") from error
        # W&B's own step never goes back, as a resumed run does.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        self.run.log({**values, "step": step})

    def close(self) -> None:
        """See `Tracker.close`."""
        self.run.finish()


class MlflowTracker:
    """A run of MLflow."""

    def __init__(self, out: Path, tracking: TrackingConfig, config: Mapping[str, Any], known: str | None) -> None:
        """
        Args:
            out: the run folder.
            tracking: `tracking.*`.
            config: the run's config; becomes the parameters of a new run.
            known: id of the run to go on with; None makes one.

        Raises:
            UserError: MLflow's server or store cannot be used; says why.
        """
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self.resumed = known is not None
        try:
            self.client = MlflowClient(tracking_uri=tracking.mlflow_uri)
            if known:
                self.id = known
                self.client.update_run(known, status="RUNNING")
                return
            found = self.client.get_experiment_by_name(tracking.project)
            experiment = found.experiment_id if found else self.client.create_experiment(tracking.project)
            self.id = self.client.create_run(experiment, run_name=tracking.name or out.resolve().name).info.run_id
            params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in _flat(config)]
            for start in range(0, len(params), PARAMS_AT_ONCE):
                self.client.log_batch(self.id, params=params[start : start + PARAMS_AT_ONCE])
        except MlflowException as error:
            raise UserError(f"tracking.mlflow=true, but MLflow cannot be used: {error}") from error

    def log(self, values: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`. A failure costs these numbers, loudly, and not the run."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = int(time.time() * 1000)
        try:
            self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in values.items()])
        except MlflowException as error:
            print(f"MLflow did not take step {step}, which metrics.jsonl holds: {error}", file=sys.stderr)

    def close(self) -> None:
        """See `Tracker.close`."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_terminated(self.id)
        except MlflowException as error:
            print(f"MLflow was not told of the end of the run: {error}", file=sys.stderr)


def start_trackers(out: Path, tracking: TrackingConfig, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers that `tracking` asks for, going on with the runs that this run folder began there.

    Args:
        out: the run folder.
        tracking: `tracking.*`.
        config: what the trackers may show of the run's config.

    Raises:
        UserError: a tracker cannot be started.
    """
    path = out / TRACKING
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    found: list[Tracker] = []
    for name, kind in (("wandb", WandbTracker), ("mlflow", MlflowTracker)):
        if getattr(tracking, name):
            tracker = kind(out, tracking, config, known.get(name))
            found.append(tracker)
            known[name] = tracker.id
            write_json(path, known)
    return found


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values."""
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found
