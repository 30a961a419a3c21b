"""What machine this is, told without torch."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

TOOL_SECONDS = 10.0
THREADS = "CROSSTHINK_THREADS"
"""Variable with the CPU threads of a process, where whoever starts it gives each its own CPUs."""


def describe() -> dict[str, Any]:
    """What a run's manifest says of the machine. `memory_gb` counts 10^9 bytes."""
    return {
        "cpu_count": os.cpu_count(),
        "memory_gb": round(memory()[0] / 1e9, 1),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "gpus": gpu_names(),
    }


def threads_each(processes: int) -> int:
    """CPU threads of each of so many processes that share what this one may use."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, mine // processes)


def threads(configured: int | None, processes: int = 1) -> int:
    """CPU threads of one of so many processes: as configured, else as `THREADS` says, else its share."""
    return configured or int(os.environ.get(THREADS, "0")) or threads_each(processes)


def memory() -> tuple[int, int | None]:
    """Bytes of memory that this process may use, and how many are available, where that can be told."""
    total, free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    with contextlib.suppress(ImportError):
        import psutil

        found = psutil.virtual_memory()
        total, free = found.total, found.available
    limit = _container_limit(Path("/sys/fs/cgroup/memory.max"))
    total = min(total, limit) if limit else total
    return total, None if free is None else min(free, total)


def cpu_model(path: Path = Path("/proc/cpuinfo")) -> str | None:
    """The processor's name, or None where the system does not tell it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = re.search(r"^model name\s*:\s*(.*\S)", path.read_text("utf-8"), re.MULTILINE)
        return found[1] if found else None
    return None


def gpu_names() -> list[str]:
    """The NVIDIA GPUs by name; none where the driver's tool is absent or fails."""
    listed = tool_output(["nvidia-smi", "-L"]) or ""
    return [re.sub(r"^GPU \d+: | \(UUID.*\)$", "", line) for line in listed.splitlines() if line.startswith("GPU ")]


def tool_output(command: list[str]) -> str | None:
    """What a tool prints, or None where it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _container_limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
