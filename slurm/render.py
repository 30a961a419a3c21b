"""The batch script of a run: a template, and what stands in it."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from conf.cluster import ClusterConfig, SubmitConfig
from crossthink.errors import ConfigError
from recipes.run_files import LOGS
from slurm.parts import Component, Tasks, components, mounts, python_of, tasks

TEMPLATE = Path(__file__).parent / "templates" / "job.sh.j2"
ENDING_S = 60
"""Seconds for servers to end once the ranks have."""
WAIT_S = 120
"""Seconds for the other ranks when one has ended; they end within moments of each other."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOUNT = re.compile(r"[^:,]+:/[^:,]*(:(ro|rw))?")


@dataclass(frozen=True)
class _Srun:
    role: str
    options: str


def render(config: SubmitConfig) -> str:
    """The batch script.

    Args:
        config: the run's, with absolute paths, after `recipes.nodes.with_servers`.

    Raises:
        ConfigError: a value that cannot stand in a script, or a variable of the template without one.
    """
    cluster = config.cluster
    _check_values(config)
    parts = components(config)
    image = cluster.image if cluster.style == "pyxis" else None
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="<#",  # "{#" is bash's, for the length of an array
        comment_end_string="#>",
    )
    environment.filters["quote"] = shlex.quote
    values: dict[str, Any] = {
        "run": config.out,
        "components": [
            [_directive(option) for option in _sbatch(config, part, first=not number)]
            for number, part in enumerate(parts)
        ],
        "modules": cluster.modules,
        "setup": cluster.setup,
        "env": cluster.env,
        "python": python_of(cluster, sys.executable),
        "sruns": [_Srun(one.role, _words(_srun(config, one, len(parts) > 1))) for one in tasks(config)],
        "end_s": ENDING_S,
        "decide": _decide(config, len(parts) > 1, image),
        "requeue": cluster.continuation == "requeue",
        "containers": {role: _words(_apptainer(config, role)) for role in ("actor", "rollout")}
        if cluster.style == "apptainer"
        else {},
    }
    try:
        return environment.from_string(TEMPLATE.read_text("utf-8")).render(values)
    except jinja2.UndefinedError as error:
        raise ConfigError(f"{TEMPLATE.name}: {error}. The template names a variable that has no value.") from error


def job_name(config: SubmitConfig) -> str:
    """What the job is called: by its run folder."""
    return "crossthink-" + re.sub(r"[^A-Za-z0-9._-]", "_", Path(config.out).name)


def _sbatch(config: SubmitConfig, part: Component, first: bool) -> list[str]:
    """Options of one component of the job."""
    cluster = config.cluster
    found = [
        f"--job-name={job_name(config)}",
        f"--nodes={part.nodes}",
        f"--ntasks-per-node={part.tasks_per_node}",
        f"--time={cluster.time}",
    ]
    for name, value in (
        ("partition", part.partition),
        ("account", cluster.account),
        ("qos", cluster.qos),
        ("constraint", None if part.role == "reward" else cluster.constraint),
        ("reservation", cluster.reservation),
        ("gres", part.gres),
        ("cpus-per-task", cluster.cpus_per_task),
        ("mem", cluster.mem),
        ("exclude", ",".join(cluster.exclude) or None),
    ):
        if value is not None:
            found.append(f"--{name}={value}")
    if cluster.exclusive:
        found.append("--exclusive")
    found += cluster.options
    found.append("--requeue" if cluster.continuation == "requeue" else "--no-requeue")
    if first:
        found += [
            f"--signal=B:USR1@{cluster.signal_s}",
            f"--output={config.out.replace('%', '%%')}/{LOGS}/slurm-%j.out",
            "--open-mode=append",
        ]
    return found


def _directive(option: str) -> str:
    """An option as it stands behind #SBATCH: sbatch knows a shell's quotes, and a backslash within them, too."""
    return shlex.quote(option.replace("\\", "\\\\"))


def _srun(config: SubmitConfig, one: Tasks, heterogeneous: bool) -> list[str]:
    """Options of the srun of some tasks."""
    cluster = config.cluster
    found = [
        *([f"--het-group={one.component}"] if heterogeneous else []),
        f"--nodes={one.nodes}",
        f"--ntasks={one.count}",
        f"--ntasks-per-node={one.per_node}",
        *(["--overlap"] if one.overlap else []),
        *([f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []),
        *(["--gres=none"] if one.role == "reward" and one.component == 0 and cluster.gres else []),
        f"--wait={WAIT_S if one.role == 'rank' else 0}",
    ]
    if cluster.style == "pyxis":
        found += _pyxis(config, _image(cluster, one.role))
    return found


def _image(cluster: ClusterConfig, role: str) -> str:
    image = cluster.rollout_image if role == "rollout" and cluster.rollout_image else cluster.image
    assert image is not None  # slurm.checks has seen to it
    return image


def _pyxis(config: SubmitConfig, image: str) -> list[str]:
    """pyxis knows its options on srun alone: sbatch refuses them where it is not installed."""
    return [
        f"--container-image={image}",
        f"--container-mounts={','.join(mounts(config, config.out))}",
        f"--container-workdir={config.out}",
        "--no-container-mount-home",
    ]


def _apptainer(config: SubmitConfig, role: str) -> list[str]:
    binds = [word for mount in mounts(config, config.out) for word in ("--bind", mount)]
    gpus = ["--nv"] if config.cluster.gres else []
    return ["apptainer", "exec", *gpus, *binds, "--pwd", config.out, _image(config.cluster, role)]


def _decide(config: SubmitConfig, heterogeneous: bool, image: str | None) -> str:
    """How the batch script runs `slurm.decide`: on its own node, in a container where Python is in one."""
    if config.cluster.style == "apptainer":
        return _words(_apptainer(config, "actor"))
    if image is None:
        return "env"
    group = ["--het-group=0"] if heterogeneous else []
    return _words(
        ["srun", "--export=ALL", "--mpi=none", *group, "--nodes=1", "--ntasks=1", "--overlap", *_pyxis(config, image)]
    )


def _words(words: list[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _check_values(config: SubmitConfig) -> None:
    """Refuse what would break out of its line or list, and what is more likely a slip than meant."""
    cluster = config.cluster
    if re.search(r"[\x00-\x1f\\]", config.out):
        raise ConfigError(f"out={config.out!r} has a line break or a backslash, which the name of SLURM's log cannot.")
    lines = {
        key: getattr(cluster, key)
        for key in ("account", "partition", "rollout_partition", "reward_partition", "qos", "constraint", "reservation")
        + ("time", "gres", "mem")
    }
    for key, value in [*lines.items(), *(("options", word) for word in cluster.options + cluster.exclude)]:
        if value is not None and re.search(r"[\s#]", value):
            raise ConfigError(f"cluster.{key}={value!r} has a blank or a #. Allowed: a value of one word.")
    for word in cluster.options:
        if not word.startswith("-"):
            raise ConfigError(f"cluster.options: {word!r} is no option of sbatch. Allowed: --name=value.")
        if word.startswith("--container"):
            raise ConfigError(
                f"cluster.options: {word!r}: sbatch knows no containers. Use cluster.style and cluster.image."
            )
    for name in cluster.env:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"cluster.env: {name!r} is no name of a variable.")
    for mount in cluster.mounts if cluster.style == "none" else mounts(config, config.out):
        if not _MOUNT.fullmatch(mount):
            raise ConfigError(
                f"cluster.mounts: {mount!r} is not FROM:/TO, FROM:/TO:ro or FROM:/TO:rw, without commas or more colons."
            )
