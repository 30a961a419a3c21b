"""`crossthink sweep` as a user runs it: two arms, one that fails, a kill and a resume."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from train_helpers import TinyWorld, crossthink, has_steps, metrics, started, succeed, wait_for

from recipes.cli import main

pytestmark = pytest.mark.timeout(300, func_only=True)
TINY = "'recipe=tiny','steps=1','prompts_per_step=4','samples_per_prompt=4','micro_batch_tokens=512'"


def words(world: TinyWorld, out: Path, *more: str) -> list[str]:
    return [
        "sweep", "recipe=ablation_blends", f"model={world.base}", f"data={world.pool}", f"eval.data={world.held_out}",
        f"eval.words=['limit=3','{world.judged}']", f"words=[{TINY},'{world.judged}']", f"out={out}", "threads=1",
        "parallel=2", *more,
    ]  # fmt: skip


def test_killed_and_gone_on_with_makes_nothing_twice(
    tiny_world: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "sweep"
    line = words(tiny_world, out, "arms=[nd]")
    run = out / "nd" / "seed_0"
    with started(*line) as process:
        wait_for(lambda: has_steps(run, 1), process)
        process.send_signal(signal.SIGKILL)
    assert not (out / "sweep.json").exists()
    assert main(line) == 2 and "Add resume=true" in capsys.readouterr().err
    succeed(*line, "resume=true")
    found = json.loads((out / "sweep.json").read_text())
    assert list(found["arms"]) == ["base", "nd"] and not found["unfinished"]
    assert [one["step"] for one in metrics(run)] == [1]
    report = (out / "report.md").read_text()
    assert "## Sweep ablation\\_blends" in report and "## Our evaluations" in report and "## Costs" in report
    assert "<html" in (out / "report.html").read_text()
    before = (run / "eval" / "final" / "samples.jsonl").stat().st_mtime_ns
    assert main([*line, "resume=true"]) == 0 and ": train" not in capsys.readouterr().err
    assert (run / "eval" / "final" / "samples.jsonl").stat().st_mtime_ns == before


def test_an_arm_that_fails_is_named_and_the_others_are_finished(tiny_world: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    nobody = "arm_words=['only_mr:reward.url=[http://127.0.0.1:9]','only_mr:reward.outage_limit_s=1']"
    done = crossthink(*words(tiny_world, out, "arms=[only_mr,only_gpr]", nobody))
    assert done.returncode == 1, done.stderr[-2000:]
    assert "only_mr/seed_0: failed with 1" in done.stderr
    found = json.loads((out / "sweep.json").read_text())
    assert list(found["arms"]) == ["base", "only_gpr"] and list(found["unfinished"]) == ["only_mr/seed_0"]
    for values in found["arms"].values():
        assert values["mean"]["n"] == 1 and 0 <= values["mean"]["mean"] <= 1
        assert set(values["benchmarks"]) == set(found["benchmarks"]) and len(found["benchmarks"]) == 6
    page = (out / "sweep.md").read_text()
    assert "| **only\\_gpr** |" in page and "53.30" in page and "- only\\_mr/seed\\_0: failed with 1" in page
    assert not (out / "sweep.png").exists() and "![" not in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["arms=[nd,only_mr]", "arm_words=['only_mr:stepz=1']"], "arm only_mr: 'stepz' is not a key"),
        (["arm_words=['score:blend.scores.math=null']"], "recipe=table3_NAME"),
        (["arms=[nd]", "data=nowhere"], "arm nd: data=nowhere does not exist"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    tiny_world: TinyWorld, tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(words(tiny_world, tmp_path / "sweep", *more)) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "sweep").exists()
