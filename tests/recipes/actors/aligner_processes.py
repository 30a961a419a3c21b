"""Processes of NeMo-Aligner for the tests of its patches, and the lines of its sources."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossthink.procs import free_port, stop
from recipes.actors.aligner.patches import Patch

LIMIT_S = 240
ROOT = Path(__file__).parents[3]


def source_line(patch: Patch) -> str:
    """The line of an installed library that a patch names as its reason."""
    lines = Path(sysconfig.get_paths()["purelib"], patch.file).read_text(encoding="utf-8").splitlines()
    return lines[patch.line - 1]


def run_all(jobs: Sequence[tuple[Sequence[object], Mapping[str, str]]], folder: Path) -> None:
    """Run Python with arguments and an environment of its own for each job, all at a time, each under a time limit."""
    running: list[subprocess.Popen] = []
    logs = [folder / f"log_{number}.txt" for number in range(len(jobs))]
    try:
        for (words, environment), log in zip(jobs, logs, strict=True):
            settings = {
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "recipes")]),
            }  # fmt: skip
            with open(log, "wb") as out:
                running.append(
                    subprocess.Popen(
                        [sys.executable, *map(str, words)],
                        env=os.environ | settings | environment,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )
        codes = [process.wait(timeout=LIMIT_S) for process in running]
        assert codes == [0] * len(jobs), "\n".join(log.read_text()[-3000:] for log in logs)
    finally:
        for process in running:
            stop(process, grace_s=1)
