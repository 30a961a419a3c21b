"""Running `crossthink` as a user does: as a process of its own, always under a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from recipes.run_files import read_lines
from recipes.run_folder import BASE, DEMO_HELD_OUT, DEMO_POOL

T = TypeVar("T")
LIMIT_S = 240
# Seconds and memory differ between equal runs; everything else may not.
TIMES = ("seconds", "tokens_per_second", "tflops", "peak_memory_mb")


@dataclass(frozen=True)
class TinyWorld:
    """Folders of a small model and its data, and a reward server for tests that are about something else."""

    root: Path
    judge: str

    @property
    def base(self) -> Path:
        return self.root / BASE

    @property
    def pool(self) -> Path:
        return self.root / DEMO_POOL

    @property
    def held_out(self) -> Path:
        return self.root / DEMO_HELD_OUT

    @property
    def judged(self) -> str:
        """The word of a run or an evaluation that starts no reward server: that takes as long as a step or two."""
        return f"reward.url=[{self.judge}]"

    def train_words(self, out: Path, *overrides: str) -> list[str]:
        """A small training run on this model and pool; one thread, so that two runs do the same arithmetic."""
        return [
            "train", "recipe=tiny", f"model={self.base}", f"data={self.pool}", f"out={out}", "steps=3",
            "prompts_per_step=8", "samples_per_prompt=8", "micro_batch_tokens=512", "actor.threads=1", *overrides,
        ]  # fmt: skip

    def finished_run(self, out: Path) -> list[str]:
        """Put a finished run of one step at `out`: a copy of one that is made once. Returns its command's words."""
        made = self.root / "finished_run"
        with FileLock(self.root / "finished_run.lock"):
            if not made.exists():
                unfinished = self.root / "unfinished_run"
                shutil.rmtree(unfinished, ignore_errors=True)
                succeed(*self.train_words(unfinished, "steps=1"))
                unfinished.rename(made)
        shutil.copytree(made, out)
        return self.train_words(out, "steps=1")


def environment() -> dict[str, str]:
    """The environment without what an outside launcher would set."""
    dropped = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in dropped}


@contextlib.contextmanager
def started(*words: str, **options: Any) -> Iterator[subprocess.Popen]:
    """Start `crossthink WORDS`; whatever is left of it and its children is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | options.pop("env", {}),
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        # Its ranks and servers end with it: the kernel sees to that.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()


def crossthink(*words: str, limit_s: float = LIMIT_S, **options: Any) -> subprocess.CompletedProcess:
    """Run `crossthink WORDS` to its end."""
    with started(*words, **options) as process:
        out, err = process.communicate(timeout=limit_s)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


def succeed(*words: str, **options: Any) -> subprocess.CompletedProcess:
    """Run `crossthink WORDS` and insist on exit code 0."""
    done = crossthink(*words, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@contextlib.contextmanager
def rollout_server(
    world: TinyWorld, folder: Path, port: int = 0, more: Sequence[str] = ("weights=refit",)
) -> Iterator[tuple[subprocess.Popen, str]]:
    """A rollout server of somebody else's, without weights unless `more` says so, and its address."""
    port_file = folder / f"port-{time.monotonic_ns()}"
    words = ("serve-rollout", f"model={world.base}", f"port={port}", "threads=1")
    with started(*words, *more, env={"CROSSTHINK_PORT_FILE": str(port_file)}) as process:
        wait_for(port_file.is_file, process)
        yield process, f"http://127.0.0.1:{int(port_file.read_text())}"


def wait_for(condition: Callable[[], T], process: subprocess.Popen) -> T:
    """What `condition` returns once it is true. The process may not end before."""
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def metrics(out: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    return read_lines(out / "metrics.jsonl")


def dump(out: Path, step: int) -> list[dict[str, Any]]:
    """The samples of a step, without what may differ between equal runs: milliseconds."""
    lines = (out / "rollouts" / f"step_{step:06d}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        del row["verdict"]["elapsed_ms"]
    return rows


def has_steps(out: Path, count: int) -> bool:
    """Whether the run has finished so many steps."""
    return (out / "metrics.jsonl").is_file() and len(metrics(out)) >= count


def assert_equal_runs(one: Path, other: Path, steps: int) -> None:
    """DESIGN: token ids and verdicts identical; with the same batching, everything else too."""
    assert [m["step"] for m in metrics(other)] == list(range(1, steps + 1))
    assert [_without_times(m) for m in metrics(one)] == [_without_times(m) for m in metrics(other)]
    for step in range(1, steps + 1):
        assert dump(one, step) == dump(other, step)


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in TIMES}
