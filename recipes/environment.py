"""Which environment this is. megatron-core 0.16.1 and NeMo-Aligner need versions that exclude each other's."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

from crossthink.errors import UserError


@dataclass(frozen=True)
class Engine:
    """What an actor runs on.

    Attributes:
        package: the package that makes an environment this engine's.
        version: the only one that the engine is written for.
        mend: how to get an environment with it.
        extra: what to install where no version of it is, and the environment may become this engine's.
    """

    package: str
    version: str
    mend: str
    extra: str | None = None


ENGINES = {
    "megatron": Engine("megatron-core", "0.16.1", "`make venv`, then .venv/bin/crossthink", "crossthink[train]"),
    "aligner": Engine("nemo-aligner", "0.7.0", "`make nemo`, then .venv-nemo/bin/crossthink"),
}


def installed(package: str) -> str | None:
    """The version of a package here, without a build's own suffix; None where it is not installed."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def missing(actor: str) -> str | None:
    """What this environment lacks for `actor`, and how to get it; None where nothing."""
    engine = ENGINES[actor]
    found = installed(engine.package)
    if found == engine.version:
        return None
    here = f"has {found}" if found else "has none"
    install = f", or pip install '{engine.extra}'" if engine.extra and not found else ""
    return f"actor={actor} needs {engine.package} {engine.version}, and this environment {here}: {engine.mend}{install}"


def check_environment(actor: str) -> None:
    """Refuse an actor whose engine this environment does not have.

    Raises:
        UserError: names the package, both versions, and the command that builds the right environment.
    """
    if trouble := missing(actor):
        raise UserError(f"{trouble}.")
