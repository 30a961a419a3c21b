"""Rollout servers of `benchmarks/rollout.py`: `crossthink serve-rollout` in processes of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
START_S = 120.0


@contextlib.contextmanager
def rollout_server(folder: Path, *words: str) -> Iterator[str]:
    """The address of a server of this model, which is ended with the block."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile("w+") as log:
        port_file = Path(scratch) / "port"
        process = subprocess.Popen(
            [sys.executable, "-m", "recipes.cli", "serve-rollout", f"model={folder}", "port=0", *words],
            cwd=ROOT,
            env={**os.environ, "CROSSTHINK_PORT_FILE": str(port_file), "CROSSTHINK_PARENT": str(os.getpid())},
            stdout=log,
            stderr=log,
        )
        try:
            end = time.monotonic() + START_S
            while not port_file.is_file():
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"the rollout server did not start:\n{log.read()[-3000:]}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{int(port_file.read_text())}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
