"""The same run alone, over tensor and pipeline ranks, and over data-parallel ranks."""

from __future__ import annotations

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


@pytest.mark.parametrize("updates", [1, 2])
def test_layouts_give_the_same_run(tiny_world: TinyWorld, tmp_path: Path, updates: int) -> None:
    # A learning rate that moves every weight by about 1e-3 in three steps: small differences cannot hide behind it.
    words = ("optimizer.lr=3e-4", f"updates_per_rollout={updates}")
    alone = tmp_path / "alone"
    succeed(*tiny_world.train_words(alone, *words))
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
    for name, layout in LAYOUTS.items():
        out = tmp_path / name
        succeed(*tiny_world.train_words(out, *words, *layout))
        for one, other in zip(metrics(alone), metrics(out), strict=True):
            for key in COMPARED:
                # On-policy the loss is zero by construction: its rounding noise is compared absolutely.
                floor = 1e-6 if key in ("loss", "kl") else 1e-9
                assert other[key] == pytest.approx(one[key], rel=RELATIVE, abs=floor), (name, one["step"], key)
        for step in (1, 2, 3):
            for one, other in zip(dump(alone, step), dump(out, step), strict=True):
                assert other.pop("log_probs") == pytest.approx(one.pop("log_probs"), abs=1e-4)
                assert other == one, (name, step)
        assert distance(final_weights(alone), final_weights(out)) <= 0.01 * moved, name


def test_eval_of_a_checkpoint_written_by_other_ranks(tiny_world: TinyWorld, tmp_path: Path) -> None:
    succeed(*tiny_world.train_words(tmp_path / "run", "steps=1", *LAYOUTS["tp2_pp2"]))
    succeed(
        "eval",
        f"checkpoint={tmp_path / 'run'}",
        f"data={tiny_world.held_out}",
        f"out={tmp_path / 'eval'}",
        "limit=20",
        "max_response_tokens=40",
    )
    summary = evaluate.read_summary(tmp_path / "eval")
    assert summary["questions"] == 20
    assert summary["also_in_training"] == 0
    assert EvalConfig().limit is None
