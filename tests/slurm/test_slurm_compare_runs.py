"""What `benchmarks/slurm_faults.py` takes for equal, and for a draw on the border of two tokens."""

from __future__ import annotations

import json
from pathlib import Path

from compare_runs import border_draw, differences

STEPS = 3


def run(folder: Path, changed: dict[tuple[int, int], list[int]] | None = None, loss: float = 0.5) -> Path:
    """A run of three steps of two samples; `changed` has other tokens for (step, sample)."""
    (folder / "rollouts").mkdir(parents=True)
    lines = [{"step": step, "loss": loss if step == 1 else 0.25, "seconds": 1.0} for step in range(1, STEPS + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in range(1, STEPS + 1):
        rows = []
        for sample in (0, 1):
            ids = (changed or {}).get((step, sample), [7, 8, 9])
            rows.append({
                "prompt_id": "p", "sample": sample, "token_ids": ids, "log_probs": [-0.1] * len(ids),
                "weight_version": step - 1, "verdict": {"status": "correct", "elapsed_ms": 3.0},
            })  # fmt: skip
        path = folder / "rollouts" / f"step_{step:06d}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_equal_runs(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b", loss=0.5 + 1e-7)
    assert differences(one, other) == [] and border_draw(one, other) is None


def test_a_number_or_a_token_differs(tmp_path: Path) -> None:
    one = run(tmp_path / "a")
    assert differences(one, run(tmp_path / "b", loss=0.6)) == ["step 1: loss 0.5 and 0.6"]
    assert differences(one, run(tmp_path / "c", {(2, 1): [7, 8, 8]})) == ["step 2: sample 1 of prompt p"]
    assert differences(one, tmp_path / "c", before=2) == []


def test_one_draw_on_a_border(tmp_path: Path) -> None:
    one = run(tmp_path / "a")
    other = run(tmp_path / "b", {(2, 1): [7, 9, 4, 4], (3, 0): [1]})  # what comes after it differs as it likes
    place = "step 2, sample 1 of prompt p, token 1: id 8 (log-prob -0.10) and 9 (-0.10)"
    assert border_draw(one, other) == place


def test_what_is_no_draw_on_a_border(tmp_path: Path) -> None:
    one = run(tmp_path / "a")
    assert border_draw(one, run(tmp_path / "far", {(2, 1): [7, 6, 9]})) is None, "ids that are no neighbours"
    assert border_draw(one, run(tmp_path / "two", {(2, 0): [7, 9, 9], (2, 1): [7, 9, 9]})) is None, "two at once"
    assert border_draw(one, run(tmp_path / "short", {(2, 1): [7, 8]})) is None, "cut off"
    assert border_draw(one, run(tmp_path / "loss", {(2, 1): [7, 9, 9]}, loss=0.6)) is None, "different before"
    judged = run(tmp_path / "judged", {(2, 1): [7, 9, 9]})
    rows = judged / "rollouts" / "step_000002.jsonl"
    rows.write_text(rows.read_text().replace("correct", "wrong", 1))
    assert border_draw(one, judged) is None, "the same tokens of another sample, judged otherwise"
    ended = run(tmp_path / "ended")
    (ended / "metrics.jsonl").write_text("")
    assert border_draw(one, ended) is None, "no such steps"
