"""Training with rollout servers in processes of their own: the same run as without, servers killed, one step off."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from process_helpers import descendants
from train_helpers import (
    LIMIT_S,
    TinyWorld,
    crossthink,
    dump,
    has_steps,
    metrics,
    rollout_server,
    started,
    succeed,
    wait_for,
)

from crossthink.errors import EXIT_RESUMABLE

COMPARED = ("grad_norm", "reward", "accuracy", "kl", "entropy", "response_tokens")


def words_of(world: TinyWorld, out: Path, *more: str) -> list[str]:
    # The weights move, and with two updates the loss is more than rounding noise.
    return world.train_words(
        out, "optimizer.lr=1e-3", "updates_per_rollout=2", "checkpoint.every=1", world.judged, *more
    )


def rollout_servers(process: subprocess.Popen) -> list[psutil.Process]:
    """The rollout servers that a run has started."""
    return descendants(process, "serve-rollout")


def assert_same_rollouts(one: Path, other: Path, steps: int, log_probs: float = 1e-5) -> None:
    """Token ids and verdicts are identical; log-probs, and metrics, equal to what batching may change."""
    for step in range(1, steps + 1):
        for row, found in zip(dump(one, step), dump(other, step), strict=True):
            assert found.pop("log_probs") == pytest.approx(row.pop("log_probs"), abs=log_probs)
            assert found == row, step
    for line, found in zip(metrics(one), metrics(other), strict=True):
        for key in COMPARED:
            assert found[key] == pytest.approx(line[key], rel=1e-4, abs=1e-6), (line["step"], key)
        assert found["mismatch_max"] < 1e-4


@pytest.fixture(scope="module")
def in_process(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of which every rank generates its own share."""
    out = tmp_path_factory.mktemp("in_process") / "run"
    succeed(*words_of(tiny_world, out))
    return out


def test_own_servers_give_the_same_run_and_one_may_die(tiny_world: TinyWorld, in_process: Path, tmp_path: Path) -> None:
    """Two servers, refitted by a collective; one is killed between steps 1 and 3, started again and refitted."""
    out = tmp_path / "run"
    with started(*words_of(tiny_world, out, "rollout.servers=2", "rollout.transport=collective")) as process:
        wait_for(lambda: has_steps(out, 1), process)
        victim = rollout_servers(process)[0]
        victim.send_signal(signal.SIGKILL)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err[-3000:]
    assert "rollout server ended with code -9 and is started again" in err
    assert_same_rollouts(in_process, out, 3)
    assert not psutil.pid_exists(victim.pid)


def test_two_ranks_and_files(tiny_world: TinyWorld, in_process: Path, tmp_path: Path) -> None:
    """An actor of two tensor-parallel ranks, a server that reads safetensors, reference log-probs ahead."""
    out = tmp_path / "run"
    succeed(
        *words_of(tiny_world, out, "rollout.servers=1", "rollout.transport=files"),
        "actor.tensor_parallel=2",
        "rollout.overlap_log_probs=true",
    )
    assert_same_rollouts(in_process, out, 3, log_probs=1e-4)  # two ranks train to slightly other weights
    assert all(line["rollout_servers"] == 1 for line in metrics(out))
    assert not list(Path("/dev/shm").glob("crossthink-refit-*")), "weights are left in shared memory"


def test_one_step_off_killed_and_resumed(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """A checkpoint holds the rollouts already made: killed outright, the run goes on as if nothing had been."""
    off = ("rollout.servers=1", "rollout.lag=1", "algorithm.importance_cap=2.0", "steps=4")
    straight, out = tmp_path / "straight", tmp_path / "killed"
    succeed(*words_of(tiny_world, straight, *off))
    lines = metrics(straight)
    assert [line["lag"] for line in lines] == [0, 1, 1, 1]
    assert lines[0]["mismatch_max"] < 1e-4 < lines[2]["mismatch_max"]
    assert {row["weight_version"] for row in dump(straight, 4)} == {2}
    with started(*words_of(tiny_world, out, *off)) as process:
        wait_for(lambda: (out / "checkpoints/step_000002").is_dir(), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    succeed(*words_of(tiny_world, out, *off), "resume=true")
    for step in range(1, 5):
        assert dump(straight, step) == dump(out, step)
    for line, found in zip(lines, metrics(out), strict=True):
        for key in COMPARED:
            assert found[key] == pytest.approx(line[key], rel=1e-6, abs=1e-9), (line["step"], key)


def test_no_server_left_ends_resumable(tiny_world: TinyWorld, in_process: Path, tmp_path: Path) -> None:
    """Two servers of somebody else's die; the run is saved and ends with 75; with one of them back it goes on."""
    out = tmp_path / "run"
    with rollout_server(tiny_world, tmp_path) as (one, url), rollout_server(tiny_world, tmp_path) as (other, other_url):
        urls = [url, other_url]
        words = words_of(tiny_world, out, f"rollout.url=[{','.join(urls)}]", "rollout.outage_limit_s=3")
        with started(*words) as process:
            wait_for(lambda: has_steps(out, 1), process)
            one.kill()
            other.kill()
            _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == EXIT_RESUMABLE, err[-3000:]
        assert all(url in err for url in urls)
    with rollout_server(tiny_world, tmp_path, port=int(url.rpartition(":")[2])):
        assert httpx.get(f"{url}/healthz", trust_env=False).json()["version"] is None
        done = crossthink(*words, "resume=true")
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_rollouts(in_process, out, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "how",
    [
        ("actor.tensor_parallel=2", "actor.pipeline_parallel=2", "rollout.servers=2"),
        ("rollout.servers=1", "rollout.lag=1", "algorithm.importance_cap=2.0"),
        ("rollout.servers=1", "rollout.lag=1", "rollout.uncorrected=true"),
    ],
    ids=["tp2_pp2_two_servers", "lag", "lag_uncorrected"],
)
def test_the_demos_task_is_learned(how: tuple[str, ...], tmp_path: Path) -> None:
    done = succeed("demo", f"out={tmp_path / 'demo'}", *how, limit_s=1700)
    print(done.stdout[-2000:])
    lines = metrics(tmp_path / "demo")
    first, last = (sum(line["reward"] for line in part) / 10 for part in (lines[:10], lines[-10:]))
    assert last > first + 0.15, (first, last)
    off = "rollout.lag=1" in how
    assert all((line["mismatch_max"] > 1e-3) == off for line in lines[1:]), "the lag shows, and nothing else does"
