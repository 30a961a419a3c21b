"""A checkpoint of one layout goes on in another as the run that never stopped; the distributed optimizer's too.

The miniature stands in test_megatron_layouts.py, which has two ranks running.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from layout_helpers import Job, run_layouts, write_model

RELATIVE, ABSOLUTE = 1e-5, 2e-7
SAVED_AFTER = 2
LAST = 5


def saving(name: str, model: Path, checkpoint: Path, **layout: Any) -> Job:
    """A run of five steps that saves after the second."""
    return Job(name, str(model), updates=2, last=LAST, save=str(checkpoint), save_after=SAVED_AFTER, **layout)


def resuming(name: str, model: Path, checkpoint: Path, **layout: Any) -> Job:
    """The last three steps, from that checkpoint."""
    return Job(name, str(model), updates=2, first=SAVED_AFTER + 1, last=LAST, load=str(checkpoint), **layout)


def same_steps(straight: list[dict[str, float]], resumed: list[dict[str, float]], *, exactly: bool = False) -> None:
    for one, other in zip(straight[-len(resumed) :], resumed, strict=True):
        for key in one:
            assert other[key] == (one[key] if exactly else pytest.approx(one[key], rel=RELATIVE, abs=ABSOLUTE)), key


@pytest.mark.slow
def test_a_distributed_optimizer_resumes(tmp_path: Path) -> None:
    """At the same sizes bit for bit, and over other ranks, whichever optimizer they have."""
    model, checkpoint = tmp_path / "model", tmp_path / "checkpoint"
    write_model(model, tied=True)
    jobs = [
        saving("dp2", model, checkpoint),
        resuming("again", model, checkpoint),
        resuming("plain", model, checkpoint, settings={"distributed_optimizer": False}),
        resuming("pp2", model, checkpoint, pipeline=2),
    ]
    metrics = run_layouts(2, jobs, tmp_path / "two")
    same_steps(metrics["dp2"], metrics["again"], exactly=True)
    same_steps(metrics["dp2"], metrics["plain"])
    same_steps(metrics["dp2"], metrics["pp2"])


@pytest.mark.slow
def test_a_plain_checkpoint_resumes_with_a_distributed_optimizer_and_bfloat16_with_its_master_weights(
    tmp_path: Path,
) -> None:
    model, checkpoint = tmp_path / "model", tmp_path / "checkpoint"
    write_model(model, tied=False)
    half = {"dtype": "bfloat16", "distributed_optimizer": True}
    jobs = [
        saving("plain", model, checkpoint),
        resuming("distributed", model, checkpoint, settings={"distributed_optimizer": True}),
        saving("half", model, tmp_path / "half", settings=half),
        resuming("half_again", model, tmp_path / "half", settings=half),
        resuming("half_plain", model, tmp_path / "half", settings={"dtype": "bfloat16"}),
    ]
    metrics = run_layouts(1, jobs, tmp_path / "one")
    same_steps(metrics["plain"], metrics["distributed"])
    same_steps(metrics["half"], metrics["half_again"], exactly=True)
    same_steps(metrics["half"], metrics["half_plain"])


@pytest.mark.slow
def test_four_ranks_resume_anywhere(tmp_path: Path) -> None:
    """Saved at TP2 × PP2 with the distributed optimizer; policy and critic."""
    model = tmp_path / "model"
    write_model(model, tied=True)
    quad = {"tensor": 2, "pipeline": 2, "settings": {"distributed_optimizer": True}}
    layouts = {
        1: {"one": {}},
        2: {"pp2": {"pipeline": 2}, "dp2": {}, "tp2": {"tensor": 2}},
        4: {"tp2_dp2": {"tensor": 2, "settings": {"sequence_parallel": True}}},
    }
    for critic in (False, True):
        kind = "critic" if critic else "policy"
        checkpoint = tmp_path / kind
        straight = run_layouts(4, [saving("quad", model, checkpoint, critic=critic, **quad)], tmp_path / f"{kind}_4")
        for ranks, names in layouts.items():
            jobs = [resuming(name, model, checkpoint, critic=critic, **layout) for name, layout in names.items()]
            resumed = run_layouts(ranks, jobs, tmp_path / f"{kind}_resumed_{ranks}")
            for name in names:
                same_steps(straight["quad"], resumed[name])
