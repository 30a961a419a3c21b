"""A run that is killed is the run that never stopped, wherever it was killed; one whose job ends saves in time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from train_helpers import LIMIT_S, TinyWorld, assert_equal_runs, crossthink, has_steps, metrics, started, succeed

from crossthink.errors import EXIT_RESUMABLE
from recipes.rl.checkpoints import Checkpoint
from recipes.rl.walltime import JOB_END

# Whether the run in this folder is where the wait begins.
Reached = Callable[[Path], bool]


def after(steps: int) -> Reached:
    """So many steps are finished. 0: from the start of the process."""
    return lambda out: steps == 0 or has_steps(out, steps)


def a_save_begins() -> Reached:
    """A checkpoint is being written that was not when first asked: what an earlier kill left is no save."""
    left: set[str] | None = None

    def begun(out: Path) -> bool:
        nonlocal left
        found = unfinished(out)
        left = found if left is None else left & found
        return bool(found - left)

    return begun


def unfinished(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").glob(".step_*.tmp")}


def kill_and_resume(words: list[str], out: Path, moments: list[tuple[Reached, float]]) -> tuple[int, int]:
    """Start the run, kill its whole process group so many seconds after each of `moments`, then let it finish.

    Returns:
        How often a kill met a live run, and how often it left a half-written checkpoint.
    """
    kills = torn = 0
    for reached, seconds in moments:
        with started(*words, "resume=true") as process:
            limit = time.monotonic() + LIMIT_S
            while process.poll() is None and not reached(out) and time.monotonic() < limit:
                time.sleep(0.005)
            moment = time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < moment:
                time.sleep(0.005)
            kills += process.poll() is None
        # `started` has sent SIGKILL to the group; its children, in sessions of their own, must be gone as well.
        torn += bool(unfinished(out))
    succeed(*words, "resume=true", limit_s=600)
    return kills, torn


def assert_whole(out: Path) -> None:
    """Nothing half-written is left, and what is left can be trusted."""
    assert not list((out / "checkpoints").glob(".*"))
    for folder in (out / "checkpoints").glob("step_*"):
        Checkpoint(folder).verify()


def run_kills(world: TinyWorld, tmp_path: Path, steps: int, moments: list[tuple[Reached, float]]) -> tuple[int, int]:
    """A run that saves every step and is killed, against one that neither is nor does."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    if not straight.exists():
        succeed(*world.train_words(straight, f"steps={steps}", world.judged), limit_s=600)
    words = world.train_words(killed, f"steps={steps}", "checkpoint.every=1")
    met = kill_and_resume(words, killed, moments)
    assert_equal_runs(straight, killed, steps)
    assert_whole(killed)
    return met


def test_killed_in_a_step_and_in_a_save(tiny_world: TinyWorld, tmp_path: Path) -> None:
    kills, torn = run_kills(tiny_world, tmp_path, 5, [(after(2), 0.2), (a_save_begins(), 0.0)])
    assert kills == 2 and torn >= 1


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_ten_moments(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Random moments: two while the process starts, the others spread over rollout, update and saving of 12 steps."""
    rng = random.Random(0)
    early = [(after(0), rng.uniform(0.5, 8.0)) for _ in range(2)]
    later = [(after(step), rng.uniform(0.0, 1.5)) for step in sorted(rng.choices(range(1, 11), k=8))]
    kills, _ = run_kills(tiny_world, tmp_path, 12, early + later)
    assert kills >= 8


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_twenty_moments_of_a_save(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """From when its folder appears until about when it is whole."""
    steps = 40
    succeed(*tiny_world.train_words(tmp_path / "straight", f"steps={steps}", "checkpoint.every=1"), limit_s=600)
    writes = [line["seconds"].get("checkpoint_write", 0.0) for line in metrics(tmp_path / "straight")]
    usual = sorted(writes)[len(writes) // 2]
    rng = random.Random(0)
    kills, torn = run_kills(
        tiny_world, tmp_path, steps, [(a_save_begins(), rng.uniform(0.0, usual)) for _ in range(20)]
    )
    print(f"{kills} kills, {torn} of them left a half-written checkpoint; a save takes {usual:.2f} s")
    assert kills == 20 and torn >= 10


def test_a_job_that_is_over_stops_resumable(tiny_world: TinyWorld, tmp_path: Path) -> None:
    words = tiny_world.train_words(tmp_path / "run", tiny_world.judged)
    done = crossthink(*words, env={JOB_END: str(time.time() + 1)})
    assert done.returncode == EXIT_RESUMABLE, done.stderr[-2000:]
    assert JOB_END in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_saves_before_the_end_of_its_job(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Two ranks, of which rank 0's clock counts."""
    out = tmp_path / "run"
    words = tiny_world.train_words(
        out, "steps=1000", "checkpoint.every=1", "checkpoint.margin_s=1", "actor.data_parallel=2"
    )
    done = crossthink(*words, env={JOB_END: str(time.time() + 60)})
    assert done.returncode == EXIT_RESUMABLE, done.stderr[-2000:]
    steps = len(metrics(out))
    assert f"Stopped before step {steps + 1} of 1000" in done.stderr
    assert (out / "checkpoints" / "latest").read_text().strip() == f"step_{steps:06d}"
    assert_whole(out)
