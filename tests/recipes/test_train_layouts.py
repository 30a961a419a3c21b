"""The same run alone, over tensor and pipeline ranks, and over data-parallel ranks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from train_helpers import TinyWorld, dump, metrics, succeed

from conf.evaluate import EvalConfig
from recipes import evaluate
from recipes.stored_weights import stored_weights

LAYOUTS = {
    "tp2_pp2": ("actor.tensor_parallel=2", "actor.pipeline_parallel=2"),
    "dp2": ("actor.data_parallel=2",),
}
COMPARED = ("loss", "grad_norm", "reward", "accuracy", "format", "kl", "entropy")
RELATIVE = 1e-4
# A learning rate that moves every weight by about 1e-3 in three steps: small differences cannot hide behind it.
WORDS = ("optimizer.lr=3e-4", "checkpoint.every=1", "checkpoint.keep=3")

# Of so many updates a rollout, in this layout.
RunOf = Callable[[int, str], Path]


@pytest.fixture(scope="module")
def run_of(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """A finished run of three steps, made once. Nobody writes to it."""
    root = tmp_path_factory.mktemp("layouts")

    def made(updates: int, layout: str) -> Path:
        out = root / f"{layout}_{updates}"
        if not out.exists():
            succeed(*words_of(tiny_world, out, updates), *LAYOUTS.get(layout, ()))
        return out

    return made


def words_of(world: TinyWorld, out: Path, updates: int) -> list[str]:
    return world.train_words(out, *WORDS, world.judged, f"updates_per_rollout={updates}")


def final_weights(out: Path) -> dict[str, torch.Tensor]:
    """Hugging Face weights of a run's newest checkpoint, read by one process whatever layout wrote them."""
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh

    mesh = join_mesh(1, 1)
    try:
        return dict(stored_weights(out, mesh))
    finally:
        leave_mesh()


def base_weights(world: TinyWorld) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(world.base / "model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Euclidean distance of two sets of weights."""
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in one) ** 0.5


def assert_same_run(one: Path, other: Path, moved: float) -> None:
    """The same samples and numbers step by step, and the same weights to 1 % of what training `moved` them."""
    for line, found in zip(metrics(one), metrics(other), strict=True):
        for key in COMPARED:
            # On-policy the loss is zero by construction: its rounding noise is compared absolutely.
            floor = 1e-6 if key in ("loss", "kl") else 1e-9
            assert found[key] == pytest.approx(line[key], rel=RELATIVE, abs=floor), (other.name, line["step"], key)
    for step in (1, 2, 3):
        for row, found in zip(dump(one, step), dump(other, step), strict=True):
            assert found.pop("log_probs") == pytest.approx(row.pop("log_probs"), abs=1e-4)
            assert found == row, (other.name, step)
    assert distance(final_weights(one), final_weights(other)) <= 0.01 * moved, other.name


# One update a rollout takes as long again, and test_megatron_layouts compares it without a run around it.
@pytest.mark.parametrize("updates", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_layouts_give_the_same_run(run_of: RunOf, tiny_world: TinyWorld, updates: int) -> None:
    alone = run_of(updates, "alone")
    assert all(line["grad_norm"] > 1e-3 for line in metrics(alone)), "nothing was learned: nothing would be compared"
    if updates == 2:
        # From the second update on the policy has left the rollout's: the loss is no longer zero by construction.
        assert all(abs(line["loss"]) > 1e-5 for line in metrics(alone))
    first = metrics(alone)[0]
    if updates == 1:
        assert first["kl"] < 1e-6
    assert first["logprob_error"] < 1.001
    moved = distance(base_weights(tiny_world), final_weights(alone))
    count = sum(t.numel() for t in base_weights(tiny_world).values())
    assert moved / count**0.5 > 1e-4, "the weights hardly moved: nothing would be compared"
    for layout in LAYOUTS:
        assert_same_run(alone, run_of(updates, layout), moved)


def test_resume_at_other_parallel_sizes(run_of: RunOf, tiny_world: TinyWorld, tmp_path: Path) -> None:
    """A run of four ranks that ended after its first step goes on in one process: the run that was never split."""
    alone, moved = run_of(2, "alone"), tmp_path / "moved"
    shutil.copytree(run_of(2, "tp2_pp2"), moved)
    for step in ("step_000002", "step_000003"):
        shutil.rmtree(moved / "checkpoints" / step)
    (moved / "checkpoints" / "latest").write_text("step_000001\n")
    succeed(*words_of(tiny_world, moved, 2), "resume=true")
    assert_same_run(alone, moved, distance(base_weights(tiny_world), final_weights(alone)))


def test_eval_of_a_checkpoint_written_by_other_ranks(run_of: RunOf, tiny_world: TinyWorld, tmp_path: Path) -> None:
    succeed(
        "eval",
        f"checkpoint={run_of(2, 'tp2_pp2')}",
        f"data={tiny_world.held_out}",
        f"out={tmp_path / 'eval'}",
        "limit=4",
        "runs=1",
        "max_response_tokens=40",
        tiny_world.judged,
    )
    summary = evaluate.read_summary(tmp_path / "eval")
    assert summary["questions"] == 24, "four of each of the six sources"
    assert summary["facts"]["also_in_training"] == 0
    assert EvalConfig().limit is None
