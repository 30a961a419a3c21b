"""`crossthink train actor=aligner` as a user runs it: killed, resumed in another layout, evaluated, converted."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from train_helpers import LIMIT_S, TinyWorld, crossthink, dump, has_steps, metrics, started, succeed

from crossthink.errors import EXIT_USAGE
from recipes.environment import missing
from recipes.models.nemo_folder import HUGGINGFACE, MODEL_CONFIG, POLICY, WEIGHTS
from recipes.rl.checkpoints import Checkpoint
from recipes.run_files import read_lines

lacks = missing("aligner")
here = pytest.mark.skipif(lacks is not None, reason=str(lacks))
ALIGNER = ("actor=aligner", "checkpoint.every=1", "updates_per_rollout=2")


def kill_after(steps: int, out: Path, *words: str, limit_s: float = LIMIT_S) -> None:
    """Start a run and kill it, and all that it started, once so many steps are finished."""
    with started(*words) as process:
        limit = time.monotonic() + limit_s
        while not has_steps(out, steps):
            assert process.poll() is None, process.stderr.read()[-3000:]
            assert time.monotonic() < limit, f"not {steps} steps in {limit_s} s"
            time.sleep(0.05)


@pytest.mark.timeout(900)  # three starts of NeMo, and the warm start where it has not been made yet
@here
def test_killed_and_resumed_in_another_layout(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """The same rollouts, and the same numbers but for the order of sums, as a run that neither stopped nor changed."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    succeed(*tiny_world.train_words(straight, *ALIGNER, tiny_world.judged))
    words = tiny_world.train_words(killed, *ALIGNER, tiny_world.judged)
    kill_after(2, killed, *words)
    succeed(*words, "resume=true", "actor.tensor_parallel=2")
    assert [line["step"] for line in metrics(killed)] == [1, 2, 3]
    for one, other in zip(metrics(straight), metrics(killed), strict=True):
        for key in ("loss", "grad_norm", "kl", "reward", "entropy"):
            assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), (one["step"], key)
        assert other["logprob_error"] == pytest.approx(1.0, abs=1e-4), "the rollout engine has the actor's weights"
        assert [row["token_ids"] for row in dump(straight, one["step"])] == [
            row["token_ids"] for row in dump(killed, one["step"])
        ]
    assert metrics(killed)[-1]["kl"] > 0 and metrics(killed)[-1]["grad_norm"] > 0
    newest = killed / "checkpoints" / "step_000003"
    Checkpoint(newest).verify()
    assert {path.name for path in (newest / POLICY).iterdir()} == {MODEL_CONFIG, WEIGHTS, HUGGINGFACE}

    succeed("convert", f"checkpoint={killed}", f"out={tmp_path / 'hf'}")
    for name, checkpoint in (("of_run", killed), ("of_hf", tmp_path / "hf")):
        succeed(
            "eval", f"checkpoint={checkpoint}", f"data={tiny_world.held_out}", f"out={tmp_path / name}", "limit=2",
            "max_response_tokens=40", "threads=1", "runs=1", tiny_world.judged,
        )  # fmt: skip
    answers = [read_lines(tmp_path / name / "samples.jsonl") for name in ("of_run", "of_hf")]
    assert len(answers[0]) == 12
    assert [row["response"] for row in answers[0]] == [row["response"] for row in answers[1]]


@pytest.mark.slow
@pytest.mark.timeout(2400)
@here
def test_learns_the_demos_task_killed_and_resumed_on_two_ranks(tmp_path: Path) -> None:
    """The demo from its own warm start, killed in the middle, resumed on two ranks: a gain of 0.1 or more."""
    out = tmp_path / "demo"
    words = ("demo", "actor=aligner", f"out={out}")
    kill_after(45, out, *words, limit_s=1200)
    succeed(*words, "actor.tensor_parallel=2", limit_s=1200)
    report = json.loads((out / "report.json").read_text())
    print(f"gain {report['gain']:+.3f}: {report['base_reward']:.3f} to {report['final_reward']:.3f}")
    assert report["gain"] >= 0.10
    assert [line["step"] for line in metrics(out)] == list(range(1, report["steps"] + 1))


@pytest.mark.skipif(lacks is None, reason="this is NeMo-Aligner's environment")
def test_the_other_environment_is_named(tmp_path: Path) -> None:
    done = crossthink("train", "recipe=tiny", "actor=aligner", f"out={tmp_path / 'run'}")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "actor=aligner needs nemo-aligner 0.7.0" in done.stderr and "`make nemo`" in done.stderr
    assert not (tmp_path / "run").exists()


@here
@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("actor.sequence_parallel=true", "actor.sequence_parallel=true needs CUDA under actor=aligner"),
        ("actor.fp8=blockwise", "actor.fp8=blockwise is not allowed under actor=aligner"),
        ("actor.reference=resident", "actor.reference=resident is not allowed. Allowed: offload"),
    ],
)
def test_what_it_cannot_do_is_refused(word: str, says: str, tmp_path: Path) -> None:
    words = [word, "actor.tensor_parallel=2"] if "sequence" in word else [word]
    done = crossthink("train", "recipe=tiny", "actor=aligner", f"out={tmp_path / 'run'}", *words)
    assert done.returncode == EXIT_USAGE and says in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()
