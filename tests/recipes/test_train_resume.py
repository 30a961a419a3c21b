"""A run that is stopped or resumed is the run that never stopped."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from process_helpers import descendants
from train_helpers import LIMIT_S, TinyWorld, assert_equal_runs, crossthink, has_steps, metrics, started, succeed

from crossthink.errors import EXIT_RESUMABLE


def test_sigterm_saves_and_exits_75(tiny_world: TinyWorld, tmp_path: Path) -> None:
    words = ("steps=4", "actor.data_parallel=2", tiny_world.judged)
    out = tmp_path / "stopped"
    with started(*tiny_world.train_words(out, *words)) as process:
        wait_for_steps(out, 1, process)
        for one in (*descendants(process, "recipes.rank"), process):  # as a service manager does, so ranks get two
            one.send_signal(signal.SIGTERM)
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
    words = tiny_world.finished_run(tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = succeed(*words, "resume=true")
    assert "is finished" in again.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_no_rank_of_an_outside_launcher_waits_in_a_finished_run(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Rank 0 ends at once there, so nobody would meet the others."""
    words = tiny_world.finished_run(tmp_path / "run")
    nobody = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "CROSSTHINK_RENDEZVOUS": str(tmp_path / "never.json")}
    succeed(*words, "resume=true", env=nobody)


def test_changed_checkpoint_is_refused(tiny_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = tiny_world.finished_run(out)
    file = next((out / "checkpoints" / "step_000001" / "state").glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = crossthink(*words, "steps=2", "resume=true")
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
