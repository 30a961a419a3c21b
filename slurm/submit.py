"""`crossthink submit`: a training run as a job of a SLURM cluster."""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

from conf.cluster import ClusterConfig, SubmitConfig
from conf.train import TrainConfig
from crossthink.errors import EXIT_DONE, ConfigError, UserError
from crossthink.files import atomic_file, write_json
from crossthink.secret import FROM_FILE
from recipes.nodes import own_rollout_servers, with_servers
from recipes.run_files import LOGS
from recipes.run_folder import CONFIG, claim, locked
from slurm import checks, scheduler
from slurm.attempt import CLUSTER, FINISHED, SCRIPT, SECRET, SUBMISSION, submitted_jobs
from slurm.render import render
from slurm.settings import write_cluster


def run(config: SubmitConfig, dry_run: bool = False) -> int:
    """Check, render, and submit. Nothing is written or queued where a check fails.

    Args:
        config: the run's, and the cluster's.
        dry_run: print the script instead; what can be asked of a scheduler is asked where there is one.

    Raises:
        ConfigError: an impossible config; a run folder that is in use, holds another run, or has a job already.
        UserError: SLURM is not here, or refuses.
    """
    config = settled(config)
    checks.check_config(config)
    checks.check_memory(config)
    script = render(config)
    if dry_run:
        if scheduler.is_here():
            _ask(config)
        print(script, end="")
        return EXIT_DONE
    checks.check_cluster(config)
    checks.check_shared(config)
    refuse_second(Path(config.out))
    _test(script)
    ids = _submit(config, script)
    chained = f" and {len(ids) - 1} behind it" if len(ids) > 1 else ""
    print(
        f"submitted job {ids[0]}{chained}: `crossthink status run={config.out}`; logs in {Path(config.out) / LOGS}",
        file=sys.stderr,
    )
    return EXIT_DONE


def _ask(config: SubmitConfig) -> None:
    """What the cluster refuses is refused; one that does not answer leaves the script to be seen all the same."""
    try:
        checks.check_cluster(config)
    except ConfigError:
        raise
    except UserError as error:
        print(f"crossthink: partitions and node counts are unchecked: {error.__cause__ or error}", file=sys.stderr)


def settled(config: SubmitConfig) -> SubmitConfig:
    """The config with absolute paths, its servers counted, and the secret's file where servers are the job's own."""
    out = Path(config.out).absolute()
    config = replace(
        config,
        out=str(out),
        data=_absolute(config.data),
        cluster=replace(
            config.cluster,
            image=_image(config.cluster.image),
            rollout_image=_image(config.cluster.rollout_image),
            python=_python(config.cluster),
        ),
        model=replace(config.model, path=_absolute(config.model.path)),
        eval=replace(config.eval, data=_absolute(config.eval.data)),
        rollout=replace(config.rollout, weights_dir=_absolute(config.rollout.weights_dir)),
    )
    config = with_servers(config)
    secret = f"{FROM_FILE}{out / CLUSTER / SECRET}"
    if not config.reward.url:
        config = replace(config, reward=replace(config.reward, token=secret))
    if own_rollout_servers(config):
        config = replace(config, rollout=replace(config.rollout, token=secret))
    return config


def training(config: SubmitConfig) -> TrainConfig:
    """What `train` gets of it."""
    return TrainConfig(**{field.name: getattr(config, field.name) for field in fields(TrainConfig)})


def refuse_second(out: Path) -> None:
    """Refuse a run that has a job already.

    Raises:
        ConfigError: names the job and its state.
    """
    for job in scheduler.jobs(submitted_jobs(out)):
        raise ConfigError(
            f"out={out} already has job {job.id} ({job.state}). Wait for it, or end it: scancel {job.id}."
        )


def _test(script: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".sh", prefix="crossthink-") as handle:
        handle.write(script)
        handle.flush()
        scheduler.test(Path(handle.name))


def _submit(config: SubmitConfig, script: str) -> list[str]:
    """Write what the tasks need, and queue the job or jobs. Returns their ids."""
    out = Path(config.out)
    with locked(out):
        refuse_second(out)  # once more: another submit may have been faster
        is_new = not (out / CONFIG).exists()
        claim(training(config))
        (out / CLUSTER).mkdir(exist_ok=True)
        (out / LOGS).mkdir(exist_ok=True)
        write_cluster(out, config.cluster)
        _write_secret(out / CLUSTER / SECRET)
        with atomic_file(out / CLUSTER / SCRIPT) as handle:
            handle.write(script)
        (out / CLUSTER / FINISHED).unlink(missing_ok=True)
        ids: list[str] = []
        for _ in range(config.cluster.jobs if config.cluster.continuation == "chain" else 1):
            try:
                ids.append(scheduler.submit(out / CLUSTER / SCRIPT, after=ids[-1] if ids else None))
            except UserError:
                if is_new and not ids:  # nothing stays of a run that was never queued
                    shutil.rmtree(out / CLUSTER)
                    (out / LOGS).rmdir()
                    (out / CONFIG).unlink()
                raise
            write_json(out / CLUSTER / SUBMISSION, {"jobs": ids, "time": time.time(), "cluster": config.cluster.name})
    return ids


def _write_secret(path: Path) -> None:
    """A new secret, which nobody else may read; a run that goes on keeps its own."""
    if not path.exists():
        aside = path.with_name(f".{path.name}.tmp")
        aside.unlink(missing_ok=True)
        aside.touch(mode=0o600)
        aside.write_text(secrets.token_urlsafe(32) + "\n", "utf-8")
        aside.rename(path)


def _image(image: str | None) -> str | None:
    """pyxis takes a file's name for a registry's where no path stands before it, and no shell replaces its ~."""
    return image if image is None or not checks.is_image_file(image) else str(Path(image).expanduser().absolute())


def _python(cluster: ClusterConfig) -> str | None:
    """As with images; one in a container, or a name that the path finds, stays as it is."""
    if cluster.python is None or cluster.style != "none" or "/" not in cluster.python:
        return cluster.python
    return str(Path(cluster.python).expanduser().absolute())


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
