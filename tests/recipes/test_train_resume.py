"""A run that is killed, stopped or resumed is the run that never stopped."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from train_helpers import LIMIT_S, TinyWorld, crossthink, dump, metrics, started, succeed

from crossthink.errors import EXIT_RESUMABLE

# Seconds and memory differ between equal runs; everything else may not.
TIMES = ("seconds", "tokens_per_second", "tflops", "peak_memory_mb")


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in TIMES}


def assert_equal_runs(one: Path, other: Path, steps: int) -> None:
    """DESIGN: token ids and verdicts identical; with the same batching, everything else too."""
    assert [m["step"] for m in metrics(other)] == list(range(1, steps + 1))
    assert [without_times(m) for m in metrics(one)] == [without_times(m) for m in metrics(other)]
    for step in range(1, steps + 1):
        assert dump(one, step) == dump(other, step)


def kill_and_resume(words: list[str], out: Path, moments: list[tuple[int, float]]) -> int:
    """Start the run, kill its whole process group at each of `moments`, then let it finish.

    Args:
        words: the command.
        out: its run folder.
        moments: (finished steps to wait for, seconds to wait then). 0 steps: from the start of the process.

    Returns:
        How often a kill met a live run.
    """
    kills = 0
    for steps, seconds in moments:
        with started(*words, "resume=true") as process:
            limit = time.monotonic() + LIMIT_S
            while process.poll() is None and steps and not has_steps(out, steps) and time.monotonic() < limit:
                time.sleep(0.01)
            moment = time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < moment:
                time.sleep(0.01)
            kills += process.poll() is None
        # `started` has sent SIGKILL to the group; its children, in sessions of their own, must be gone as well.
    succeed(*words, "resume=true", limit_s=600)
    return kills


def has_steps(out: Path, count: int) -> bool:
    return (out / "metrics.jsonl").is_file() and len(metrics(out)) >= count


def run_kills(world: TinyWorld, tmp_path: Path, steps: int, moments: list[tuple[int, float]]) -> int:
    words = (f"steps={steps}", "checkpoint.every=2")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    succeed(*world.train_words(straight, *words), limit_s=600)
    kills = kill_and_resume(world.train_words(killed, *words), killed, moments)
    assert_equal_runs(straight, killed, steps)
    return kills


def test_killed_twice(tiny_world: TinyWorld, tmp_path: Path) -> None:
    assert run_kills(tiny_world, tmp_path, 6, [(1, 0.1), (3, 0.3)]) == 2


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_ten_moments(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Random moments: two while the process starts, the others spread over rollout, update and saving of 12 steps."""
    rng = random.Random(0)
    early = [(0, rng.uniform(0.5, 8.0)) for _ in range(2)]
    later = [(step, rng.uniform(0.0, 1.5)) for step in sorted(rng.choices(range(1, 11), k=8))]
    assert run_kills(tiny_world, tmp_path, 12, early + later) >= 8


def test_sigterm_saves_and_exits_75(tiny_world: TinyWorld, tmp_path: Path) -> None:
    words = ("steps=4", "actor.data_parallel=2")
    out = tmp_path / "stopped"
    with started(*tiny_world.train_words(out, *words)) as process:
        wait_for_steps(out, 1, process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == EXIT_RESUMABLE, err[-2000:]
        assert "resume=true" in err
    done = len(metrics(out))
    assert (out / "checkpoints" / "latest").read_text().strip() == f"step_{done:06d}"
    succeed(*tiny_world.train_words(out, *words, "resume=true"))
    straight = tmp_path / "straight"
    succeed(*tiny_world.train_words(straight, *words))
    assert_equal_runs(straight, out, 4)


def test_a_finished_run_says_so(tiny_world: TinyWorld, tmp_path: Path) -> None:
    words = tiny_world.train_words(tmp_path / "run", "steps=1")
    succeed(*words)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = succeed(*words, "resume=true")
    assert "is finished" in again.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_resume_at_other_parallel_sizes(tiny_world: TinyWorld, tmp_path: Path) -> None:
    straight, moved = tmp_path / "straight", tmp_path / "moved"
    succeed(*tiny_world.train_words(straight, "steps=3"))
    succeed(*tiny_world.train_words(moved, "steps=1", "actor.tensor_parallel=2", "actor.pipeline_parallel=2"))
    succeed(*tiny_world.train_words(moved, "steps=3", "resume=true"))
    for one, other in zip(metrics(straight), metrics(moved), strict=True):
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert other["reward"] == one["reward"]


def test_changed_checkpoint_is_refused(tiny_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed(*tiny_world.train_words(out, "steps=1"))
    file = next((out / "checkpoints" / "step_000001" / "state").glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = crossthink(*tiny_world.train_words(out, "steps=2", "resume=true"))
    assert done.returncode == 1
    assert "was changed" in done.stderr
    assert "Traceback" not in done.stderr


def wait_for_steps(out: Path, count: int, process: Any) -> None:
    """Until metrics.jsonl has `count` lines."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if has_steps(out, count):
            return
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.05)
    raise AssertionError("no step in time")
