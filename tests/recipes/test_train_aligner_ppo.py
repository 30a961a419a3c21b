"""PPO on NeMo-Aligner with its critic server: trained, stopped, resumed, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
import torch
from process_helpers import command_line, runs
from train_helpers import TinyWorld, has_steps, metrics, started

from crossthink.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE
from recipes.environment import missing

pytestmark = [
    pytest.mark.skipif(missing("aligner") is not None, reason=str(missing("aligner"))),
    pytest.mark.timeout(900),
]
LIMIT_S = 400
MOST_S = 60
"""Seconds in which everything has ended after a kill."""


@dataclass
class Traces:
    """What a run has had: processes, whoever their parent is by now, and files in shared memory."""

    processes: set[psutil.Process] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)

    def look(self, run: Popen) -> None:
        self.processes |= set(psutil.Process(run.pid).children(recursive=True))
        for process in self.processes:
            try:
                maps = process.memory_maps(grouped=True)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            self.shared |= {found.path for found in maps if found.path.startswith("/dev/shm/")}

    def rank(self, number: int) -> psutil.Process:
        """A rank of the critic."""
        ranks = [p for p in self.processes if "recipes.critic_server" in command_line(p)]
        return next(p for p in ranks if p.environ()["RANK"] == str(number))

    def scratch(self) -> Path:
        return Path(self.rank(0).environ()["PYTRITON_HOME"])

    def names(self) -> str:
        return " ".join(word for p in self.processes for word in command_line(p))

    def left(self) -> list[object]:
        alive = [p for p in self.processes if runs(p)]
        return [*alive, *(path for path in self.shared if os.path.exists(path))]

    def assert_gone(self, scratch: Path) -> None:
        deadline = time.monotonic() + MOST_S
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not self.left() and not scratch.exists()


def words(world: TinyWorld, out: Path, *overrides: str) -> list[str]:
    return world.train_words(out, "actor=aligner", "algorithm=ppo", "checkpoint.keep=10", *overrides)


def watch(run: Popen, out: Path, steps: int) -> tuple[Traces, Path]:
    """Look on until so many steps are finished. Returns what the run has had, and its critic's scratch folder."""
    traces, deadline = Traces(), time.monotonic() + LIMIT_S
    while not has_steps(out, steps):
        assert run.poll() is None and time.monotonic() < deadline, run.communicate(timeout=30)[1][-3000:]
        time.sleep(0.2)
    traces.look(run)
    names = traces.names()
    assert "tritonserver" in names and "serve-reward" in names
    return traces, traces.scratch()


def finish(run: Popen) -> tuple[int, str]:
    _, err = run.communicate(timeout=LIMIT_S)
    return run.returncode, err


def saved(out: Path, step: int, part: str) -> dict[str, torch.Tensor]:
    """Weights of the policy or the critic in a checkpoint, from any layout."""
    from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    folder = out / "checkpoints" / f"step_{step:06d}" / part / "model_weights"
    known = FileSystemReader(folder).read_metadata().state_dict_metadata
    names = [name for name, entry in known.items() if name.startswith("model.") and hasattr(entry, "size")]
    tensors = {name: torch.empty(known[name].size, dtype=known[name].properties.dtype) for name in names}
    _load_state_dict(tensors, FileSystemReader(folder), DefaultLoadPlanner(), no_dist=True)
    return tensors


def movement(out: Path, part: str, first: int, last: int) -> float:
    """The largest change of a weight between two steps."""
    one, other = saved(out, first, part), saved(out, last, part)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_killed_critic_ends_the_run_and_leaves_nothing(tiny_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(*words(tiny_world, out, "steps=1000", "checkpoint.every=1000")) as run:
        traces, scratch = watch(run, out, 1)
        traces.rank(0).kill()
        code, err = finish(run)
    assert code == EXIT_FAILED
    assert "the critic server failed. Its rank 0 ended with code -9" in err
    assert "crossthink: The critic server at http://127.0.0.1:" in err and "critic_0.log" in err
    assert "Traceback" not in err[err.index("crossthink: The critic server at") :]
    traces.assert_gone(scratch)


@pytest.mark.slow
def test_two_ranks_train_are_stopped_and_go_on(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """Five steps of TP2, with a SIGTERM after the second: those of a run that goes straight on, in one process."""
    out, straight = tmp_path / "run", tmp_path / "straight"
    split = words(tiny_world, out, "steps=5", "checkpoint.every=1", "actor.tensor_parallel=2")
    with started(*split) as run:
        traces, scratch = watch(run, out, 2)
        run.send_signal(signal.SIGTERM)
        code, err = finish(run)
    assert code == EXIT_RESUMABLE, err[-3000:]
    traces.assert_gone(scratch)
    done = len(metrics(out))
    assert 2 <= done < 5
    with started(*split, "resume=true") as run:
        traces, scratch = watch(run, out, done + 1)
        code, err = finish(run)
    assert code == EXIT_DONE, err[-3000:]
    traces.assert_gone(scratch)
    lines = metrics(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[0]["values"] == 0.0 and all(line["values"] != 0.0 for line in lines[1:])
    assert all(line["critic_grad_norm"] > 0 and line["skipped_steps"] == 0 for line in lines)
    for part in ("policy", "critic"):
        assert movement(out, part, 1, 5) > 1e-4
    with started(*words(tiny_world, straight, f"steps={done + 1}")) as run:
        code, err = finish(run)
    assert code == EXIT_DONE, err[-3000:]
    for one, other in zip(metrics(straight), lines, strict=False):
        for key in ("value_loss", "critic_grad_norm", "values", "returns", "grad_norm"):
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-6), key


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["rank 1 of the critic", "the launcher", "tritonserver"])
def test_whoever_is_killed_nothing_is_left(victim: str, tiny_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_words = words(tiny_world, out, "steps=1000", "checkpoint.every=1000", "actor.tensor_parallel=2")
    with started(*run_words) as run:
        traces, scratch = watch(run, out, 1)
        if victim == "the launcher":
            run.kill()
        elif victim == "tritonserver":
            next(p for p in traces.processes if runs(p) and p.name() == "tritonserver").kill()
        else:
            traces.rank(1).kill()
        code, err = finish(run)
    if victim != "the launcher":
        assert code == EXIT_FAILED and "crossthink: The critic server at http://127.0.0.1:" in err
    traces.assert_gone(scratch)
