"""The whole demo in miniature, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

from train_helpers import metrics, succeed

from recipes.evaluate import read_summary

SMALL = ("steps=2", "warm_start.steps=12", "warm_start.batch_size=16", "prompts_per_step=4", "samples_per_prompt=4")


def test_demo_runs_whole_and_keeps_the_earlier_one(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    succeed("demo", f"out={out}", *SMALL)
    report = json.loads((out / "report.json").read_text())
    before, after = read_summary(out / "eval" / "base"), read_summary(out / "eval" / "final")
    assert report["base_reward"] == before["reward"] and report["final_reward"] == after["reward"]
    assert report["gain"] == report["final_reward"] - report["base_reward"]
    assert report["base_answer_accuracy"] == before["answer_accuracy"]
    assert report["final_answer_accuracy"] == after["answer_accuracy"]
    assert set(report["by_domain"]) == {"gpr", "math"}
    assert report["steps"] == len(metrics(out)) == 2
    assert report["seconds"] > 0
    assert report["questions"] == before["questions"] == 360
    assert after["facts"]["also_in_training"] == 0
    assert "<html" in (out / "report.html").read_text()
    told = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    assert [key for line in metrics(out) for key in (*line, *line["seconds"]) if f"`{key}`" not in told] == ["step"] * 2
    again = succeed("demo", f"out={out}", *SMALL)
    assert "is kept as" in again.stderr
    assert (tmp_path / "demo.1" / "report.json").is_file() and (out / "report.json").is_file()
