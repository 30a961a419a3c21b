"""A state that was copied, and written after training had gone on, resumes in other layouts as the uninterrupted run.

Saved with the distributed optimizer; policy and critic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from layout_helpers import Job, final_weights, run_layouts, write_model

RELATIVE = 1e-6
DISTRIBUTED = {"distributed_optimizer": True}


def run(name: str, model: Path, **layout: Any) -> Job:
    return Job(name, str(model), updates=2, **layout)


def same(straight: list[dict[str, float]], resumed: list[dict[str, float]]) -> None:
    for one, other in zip(straight[-len(resumed) :], resumed, strict=True):
        for key in one:
            assert other[key] == pytest.approx(one[key], rel=RELATIVE, abs=2e-7), key


def same_weights(folder: Path, one: str, other: Path, job: str) -> None:
    straight, resumed = final_weights(folder, one), final_weights(other, job)
    assert straight.keys() == resumed.keys()
    for name in straight:
        torch.testing.assert_close(resumed[name], straight[name], rtol=0, atol=1e-6, msg=name)


def test_one_rank_resumes_from_a_copy(tmp_path: Path) -> None:
    """The miniature: bit for bit."""
    model = tmp_path / "model"
    write_model(model, tied=True)
    jobs = []
    for kind, critic in (("policy", False), ("critic", True)):
        saved = str(tmp_path / kind)
        jobs += [
            run(f"{kind}_straight", model, last=3, critic=critic, save=saved, save_after=1, aside=True),
            run(f"{kind}_resumed", model, first=2, last=3, critic=critic, load=saved),
        ]
    metrics = run_layouts(1, jobs, tmp_path / "one")
    for kind in ("policy", "critic"):
        assert metrics[f"{kind}_resumed"] == metrics[f"{kind}_straight"][2:]


@pytest.mark.slow
@pytest.mark.parametrize("critic", [False, True], ids=["policy", "critic"])
def test_four_ranks_resume_elsewhere(critic: bool, tmp_path: Path) -> None:
    """Saved at TP2 × PP2 and at TP2 × DP2; resumed on one rank, on two stages and on two data-parallel ranks."""
    model = tmp_path / "model"
    write_model(model, tied=True)
    quads = {"tp2_pp2": {"tensor": 2, "pipeline": 2}, "tp2_dp2": {"tensor": 2}}
    saving = [
        run(
            name, model, last=5, critic=critic, save=str(tmp_path / name), save_after=2, aside=True,
            settings=DISTRIBUTED, **quad,
        )
        for name, quad in quads.items()
    ]  # fmt: skip
    straight = run_layouts(4, saving, tmp_path / "four")
    for ranks, layouts in ((1, {"one": {}}), (2, {"pp2": {"pipeline": 2}, "dp2": {"settings": DISTRIBUTED}})):
        folder = tmp_path / f"resumed_{ranks}"
        jobs = [
            run(f"{quad}_{name}", model, first=3, last=5, critic=critic, load=str(tmp_path / quad), **layout)
            for quad in quads
            for name, layout in layouts.items()
        ]
        resumed = run_layouts(ranks, jobs, folder)
        for quad in quads:
            for name in layouts:
                same(straight[quad], resumed[f"{quad}_{name}"])
                if not critic:
                    same_weights(tmp_path / "four", quad, folder, f"{quad}_{name}")
