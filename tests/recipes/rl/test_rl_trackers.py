"""Trackers in their offline modes: what they are told, that a resumed run is one run, and the wrong settings."""

import json
from pathlib import Path

import pytest
from rl_helpers import rollout_batch

from conf.train import TrackingConfig, TrainConfig
from crossthink.errors import ConfigError, UserError
from recipes import checks
from recipes.checks import check_tracking
from recipes.rank import _trackers
from recipes.rl.records import Records

BATCH = rollout_batch([[1.0, 0.0], [0.0, 0.0]])
SECRET = "s3cret-token"


def config_of(out: Path, **tracking: object) -> TrainConfig:
    config = TrainConfig(out=str(out), tracking=TrackingConfig(**tracking))
    config.model.name, config.reward.token = "tiny", SECRET
    return config


def write(config: TrainConfig, start: int, end: int) -> None:
    records = Records(Path(config.out), start, _trackers(config))
    for step in range(start + 1, end + 1):
        records.step({"step": step, "loss": 0.5 / step, "mfu": None, "seconds": {"total": 2.0}}, BATCH)
    records.evaluation({"step": end, "reward": 0.25})
    records.close()


def test_mlflow_keeps_one_run_over_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server or a database in real life
    MlflowClient = pytest.importorskip("mlflow.tracking", reason="MLflow is not installed").MlflowClient
    out, uri = tmp_path / "run", (tmp_path / "store").as_uri()
    out.mkdir()
    config = config_of(out, mlflow=True, mlflow_uri=uri, project="numbers")
    write(config, 0, 3)
    write(config, 2, 4)  # step 3 was not saved
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("numbers").experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.info.run_id == json.loads((out / "tracking.json").read_text())["mlflow"]
    steps = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss"))
    assert steps == [(n, pytest.approx(0.5 / n)) for n in (1, 2, 3, 4)], "step 3 was made twice and stands there once"
    assert run.data.metrics["train/seconds/total"] == 2.0 and run.data.metrics["eval/reward"] == 0.25
    assert run.data.params["model.name"] == "tiny" and run.data.params["prompts_per_step"] == "128"
    assert run.data.params["reward.token"] == "(hidden)" and not any(k.startswith("tracking") for k in run.data.params)
    assert not any(SECRET.encode() in path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())


def test_a_store_that_mlflow_cannot_use_is_named(tmp_path):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    with pytest.raises(UserError, match=r"tracking\.mlflow=true, but MLflow cannot be used"):
        _trackers(config_of(tmp_path, mlflow=True, mlflow_uri="nonsense://nowhere"))


def test_wandb_keeps_one_run_over_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = config_of(tmp_path, wandb=True, project="numbers", name="mine")
    write(config, 0, 2)
    known = json.loads((tmp_path / "tracking.json").read_text())["wandb"]
    write(config, 2, 3)
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [path.name for path in files] == [f"run-{known}.wandb"] * 2
    written = b"".join(path.read_bytes() for path in files)
    for text in (b"train/loss", b"train/seconds/total", b"eval/reward", b"numbers", b"mine", b"prompts_per_step"):
        assert text in written, text
    assert SECRET.encode() not in written


def test_no_tracker_unless_asked(tmp_path):
    assert _trackers(config_of(tmp_path)) == []
    assert not (tmp_path / "tracking.json").exists()


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused(package, monkeypatch):
    config = config_of(Path("out"), **{package: True})
    monkeypatch.setattr(checks, "_installed", lambda name: True)
    check_tracking(config)
    monkeypatch.setattr(checks, "_installed", lambda name: name != package)
    with pytest.raises(ConfigError, match=rf"tracking\.{package}=true.*pip install 'crossthink\[{package}\]'"):
        check_tracking(config)


def test_what_is_installed(tmp_path, monkeypatch):
    """A folder that looks like a package is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "left_by_a_tracker").mkdir()
    assert checks._installed("json")
    assert not checks._installed("left_by_a_tracker") and not checks._installed("no_such_package")


def test_a_store_without_mlflow_is_refused():
    with pytest.raises(ConfigError, match=r"tracking\.mlflow_uri=x has no use"):
        check_tracking(config_of(Path("out"), mlflow_uri="x"))
