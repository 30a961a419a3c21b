"""`benchmarks/slurm_faults.py`, whole: every fault, on a real SLURM."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "slurm_faults.py"
LIMIT_S = 5400


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
def test_every_run_ends_complete_and_equal_to_a_quiet_one() -> None:
    # Not pytest's folder, whose name may be too long for the sockets of a cluster.
    with tempfile.TemporaryDirectory(prefix="crossthink-faults-", dir="/tmp") as folder:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), f"{folder}/out"], capture_output=True, text=True, timeout=LIMIT_S
        )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
