"""`crossthink doctor`: what of this machine CrossThink can use, and what anything missing costs."""

from __future__ import annotations

import errno
import importlib
import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conf.report import DoctorConfig
from crossthink.errors import ConfigError
from recipes import environment, machine

OLDEST_PYTHON = (3, 10)
TESTED_PYTHON = "3.11"
NO = "no"
GIB = 1024**3
SCANT_DISK, SCANT_MEMORY = 5 * GIB, 4 * GIB


@dataclass(frozen=True)
class Part:
    """One line of the table.

    Attributes:
        name: what was looked for.
        found: a version or an amount, or "no".
        meaning: what it enables, or what missing it costs.
        good: True where nothing is to be done, False where something CrossThink needs is wrong, None where an optional
            part is absent.
    """

    name: str
    found: str
    meaning: str
    good: bool | None = True


def run(config: DoctorConfig) -> None:
    """Print the table. A missing part is a finding, never a failure.

    Raises:
        ConfigError: a port that does not exist.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    for port in config.ports:
        if not 1 <= port <= 65535:
            raise ConfigError(f"ports: {port} is not a TCP port. Allowed: 1 to 65535.")
    table = Table("part", "found", "what it enables, or what missing it costs", title="CrossThink on this machine")
    for column in table.columns:
        column.overflow = "fold"
    found = parts(config)
    for part in found:
        colour = {True: "green", False: "bold red", None: "dim"}[part.good]
        table.add_row(Text(part.name), Text(part.found, style=colour), Text(part.meaning))
    console = Console()
    console.print(table)
    wrong = [part.name for part in found if part.good is False]
    console.print(
        Text(
            f"To mend: {', '.join(wrong)}." if wrong else "Nothing is broken; what is absent costs what its line says."
        )
    )


def parts(config: DoctorConfig) -> list[Part]:
    """Everything that the doctor looks at, in the order of the table."""
    checks: list[tuple[str, Callable[[], Sequence[Part]]]] = [
        ("Python", _python),
        ("base packages", lambda: [_extra(None, "base packages", "data preparation, reward server, configuration")]),
        ("torch", _torch),
        ("training packages", lambda: [_extra("train", "training packages", "train, eval, demo, report")]),
        ("environment", _environment),
        ("megatron-core", _megatron),
        ("CUDA devices", _cuda),
        ("Transformer Engine", _transformer_engine),
        ("TensorRT-LLM", _tensorrt_llm),
        ("NeMo", _nemo),
        ("SLURM", _slurm),
        *((f"port {port}", lambda port=port: [_port(config.host, port)]) for port in config.ports),
        ("disk", lambda: [_disk(Path(config.path))]),
        ("memory", lambda: [_memory()]),
        ("CPU cores", lambda: [_cores()]),
    ]
    found: list[Part] = []
    for name, check in checks:
        try:
            found += check()
        except Exception as error:  # a broken install may raise anything, and the other lines are still wanted
            found.append(Part(name, "cannot be told", _one_line(error), good=False))
    return found


def _python() -> list[Part]:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return [Part("Python", version, f"too old: CrossThink needs Python {oldest} or newer", good=False)]
    tested = "tested" if version.startswith(TESTED_PYTHON + ".") else f"should work; tested is {TESTED_PYTHON}"
    return [Part("Python", version, f"{tested} ({sys.executable})")]


def _extra(extra: str | None, name: str, enables: str) -> Part:
    """The packages of the base install (None) or of an extra; torch and megatron-core have lines of their own."""
    try:
        required = metadata.requires("crossthink") or []
    except metadata.PackageNotFoundError:
        return Part(name, NO, "crossthink itself is not installed: pip install . in its folder", good=False)
    wanted = [line for line in required if _extra_of(line) == extra]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in wanted]
    known = {package: _version(package) for package in names if package not in ("torch", "megatron-core")}
    missing = [package for package, version in known.items() if version is None]
    # megatron-core's version is what makes an environment one actor's; the line of that name tells it.
    old = [line for line in wanted if not line.startswith("megatron-core") and not _satisfied(line)]
    found = ", ".join(f"{package} {version}" for package, version in known.items() if version) or NO
    install = f"pip install 'crossthink[{extra}]'" if extra else "pip install crossthink"
    if missing:
        trouble = f"missing: {', '.join(missing)}. Without: no {enables}. Mend: {install}"
        return Part(name, found, trouble, good=None if extra else False)
    if old:
        return Part(name, found, f"other versions than asked for: {'; '.join(old)}. Mend: {install}", good=False)
    return Part(name, found, enables)


def _extra_of(requirement: str) -> str | None:
    named = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", requirement)
    return named[1] if named else None


def _satisfied(requirement: str) -> bool:
    """Whether an installed package is of a version that is asked for; True where that cannot be told."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return True
    wanted = Requirement(requirement)
    version = _version(wanted.name)
    return version is None or wanted.specifier.contains(version, prereleases=True)


def _torch() -> list[Part]:
    version = _version("torch")
    if version is None and not _importable("torch"):
        cost = "no train, eval or demo; data preparation and the reward server do not need it"
        return [Part("torch", NO, f"{cost}. pip install 'crossthink[train]'", good=None)]
    torch = importlib.import_module("torch")
    threads = torch.get_num_threads()
    return [Part("torch", version or torch.__version__, f"train, eval, demo; {threads} CPU threads")]


def _environment() -> list[Part]:
    """Whose of the two environments this is, and how to get the other."""
    lacks = {actor: environment.missing(actor) for actor in environment.ENGINES}
    here = [actor for actor, trouble in lacks.items() if trouble is None]
    others = ". ".join(trouble for trouble in lacks.values() if trouble)
    if here:
        return [Part("environment", ", ".join(f"actor={actor}" for actor in here), others)]
    if environment.installed("megatron-core"):
        return [Part("environment", "of no actor", others, good=False)]
    return [Part("environment", "without training", others, good=None)]


def _megatron() -> list[Part]:
    version = _version("megatron-core")
    if version is None:
        return [Part("megatron-core", NO, "no training. pip install 'crossthink[train]'", good=None)]
    if environment.missing("megatron") is None:
        return [Part("megatron-core", version, "actor=megatron: training on CPU (gloo) or CUDA (NCCL)")]
    if environment.missing("aligner") is None:
        return [Part("megatron-core", version, "NeMo-Aligner's; not for actor=megatron")]
    return [Part("megatron-core", version, f"{environment.missing('megatron')}", good=False)]


def _cuda() -> list[Part]:
    cost = "everything runs on the CPU: enough for the tiny recipe and the demo, not for models of billions"
    if _version("torch") is None and not _importable("torch"):
        if names := machine.gpu_names():
            return [Part("CUDA devices", f"{len(names)} × {names[0]}", "unusable without torch", good=None)]
        return [Part("CUDA devices", NO, cost, good=None)]
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built} but sees no device" if built else "torch is a CPU build"
        return [Part("CUDA devices", NO, f"{why}; {cost}", good=None)]
    found = []
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        capability = f"compute capability {facts.major}.{facts.minor}"
        memory = f"{facts.total_memory / GIB:.0f} GiB"
        found.append(Part(f"CUDA device {number}", facts.name, f"{memory}, {capability}, CUDA {torch.version.cuda}"))
    return found


def _transformer_engine() -> list[Part]:
    version = _version("transformer-engine") or _version("transformer_engine")
    if not _importable("transformer_engine"):
        return [Part("Transformer Engine", NO, "for GPUs: actor.fp8 and the 7B and 32B recipes need it", good=None)]
    return [Part("Transformer Engine", version or "yes", "its layers are used where CUDA is there; actor.fp8 needs it")]


def _tensorrt_llm() -> list[Part]:
    # Never imported: the package of this name on PyPI is only a stub that fetches another, and the real one takes long.
    version = _version("tensorrt-llm") or _version("tensorrt_llm")
    if _importable("tensorrt_llm"):
        return [Part("TensorRT-LLM", version or "yes", "for serve-rollout engine=trtllm (docs/trtllm.md)")]
    if version is not None:
        return [Part("TensorRT-LLM", f"stub {version}", "installed under its name but not importable", good=None)]
    return [Part("TensorRT-LLM", NO, "needed for rollout=trtllm only, in the rollout image", good=None)]


def _nemo() -> list[Part]:
    found = []
    for name, package in (("NeMo", "nemo-toolkit"), ("NeMo-Aligner", "nemo-aligner")):
        version = _version(package)
        meaning = "of actor=aligner's environment" if version else "not needed: training uses actor=megatron"
        found.append(Part(name, version or NO, meaning, good=True if version else None))
    return found


def _slurm() -> list[Part]:
    tools = [tool for tool in ("sbatch", "srun") if shutil.which(tool)]
    if not tools:
        return [Part("SLURM", NO, "no jobs over several machines from here; this machine alone works", good=None)]
    said = machine.tool_output([tools[0], "--version"])
    if said is None:
        why = f"{' and '.join(tools)} on PATH, but `{tools[0]} --version` fails: is there a slurm.conf here?"
        return [Part("SLURM", "not usable", why, good=None)]
    version = said.removeprefix("slurm ") or "version unknown"
    missing = {"sbatch", "srun"} - set(tools)
    meaning = f"{' and '.join(tools)} on PATH" + (f"; {missing.pop()} is missing" if missing else ": jobs on a cluster")
    return [Part("SLURM", version, meaning, good=None if len(tools) < 2 else True)]


def _port(host: str, port: int) -> Part:
    """Really listen: nothing else tells for certain whether a server could."""
    name = f"port {port} on {host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Part(name, "taken", f"a server needs another: port={port + 1}, or port=0 for any", good=None)
        return Part(name, NO, f"cannot be used: {error.strerror or error}", good=False)
    return Part(name, "free", "a server can listen here")


def _disk(path: Path) -> Part:
    there = path.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    enough = free >= SCANT_DISK
    meaning = "runs, pools and checkpoints" if enough else "scant: below 5 GiB"
    return Part(f"disk free at {path}", f"{free / GIB:.1f} GiB", meaning, good=True if enough else None)


def _memory() -> Part:
    total, free = machine.memory()
    enough = total >= SCANT_MEMORY
    meaning = "enough for the tiny recipe" if enough else "scant: below 4 GiB"
    available = f", {free / GIB:.1f} available" if free is not None else ""
    return Part("memory", f"{total / GIB:.1f} GiB{available}", meaning, good=True if enough else None)


def _cores() -> Part:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    found = str(cores) if usable == cores else f"{usable} of {cores}"
    return Part("CPU cores", found, "shared by training, generation and the reward server's workers")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _importable(module: str) -> bool:
    """Whether `import module` would find something; nothing is run."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _one_line(error: Any) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200]
