"""`crossthink eval` as a user runs it: what it refuses, what a perfect and a constant model get, every checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_helpers import boxed, endpoint, row
from pool_helpers import write_pool
from question_rows import math500_row, mmlu_row, write_rows
from train_helpers import TinyWorld, crossthink, succeed

from conf.compose import resolve
from conf.evaluate import EvalConfig
from crossthink.errors import EXIT_USAGE, ConfigError
from recipes import evaluate as command
from recipes.evaluation.questions import from_pool

pytestmark = pytest.mark.timeout(300, func_only=True)


def checked(*words: str) -> EvalConfig:
    config = resolve("eval", EvalConfig, ["out=o", *words])
    command.check(config)
    return config


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data=d"], "checkpoint= .* or endpoint= .*: give one"),
        (["data=d", "checkpoint=c", "endpoint=http://e"], "checkpoint= .* or endpoint= .*: give one"),
        (["checkpoint=c"], "data= .* or benchmarks=.* is required"),
        (["data=d", "checkpoint=c", "checkpoints=newest"], "checkpoints=newest is not one of last, best, all"),
        (["data=d", "checkpoint=c", "few_shot=2"], "few_shot=2 needs benchmarks="),
        (["data=d", "checkpoint=c", "runs=0"], "runs=0 is too small: at least 1"),
        (["data=d", "checkpoint=c", "threads=0"], "threads=0 is too small: at least 1"),
        (["data=d", "checkpoint=c", "temperature=-1"], "temperature=-1.0: allowed is at least 0"),
        (["data=d", "checkpoint=c", "temperature=nan"], "temperature=nan: allowed is at least 0"),
        (["data=d", "checkpoint=c", "top_p=0"], "top_p=0.0: allowed is above 0"),
        (["data=d", "endpoint=http://e", "request.concurrency=0"], "request.concurrency=0 is too small"),
        (["data=d", "endpoint=http://e", "request.deadline_s=0"], "request.deadline_s=0.0: allowed is above 0"),
        (["data=d", "checkpoint=c", "reward.match=loose"], "reward.match=loose is not allowed. Allowed: equivalent, "),
        (["data=d", "checkpoint=c", "reward.shaping.format_credit=2"], "reward.shaping.format_credit=2.0 is not"),
        (
            ["data=d", "checkpoint=c", "reward.url=[http://r]", "reward.shaping.format_credit=1"],
            "reward.shaping is for the run's own reward server",
        ),
    ],
)
def test_what_is_refused_before_anything_starts(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        checked(*words)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("checkpoint={0}/none", "checkpoint=.*none is neither a run folder"),
        ("endpoint=127.0.0.1:8000", "endpoint=127.0.0.1:8000 is no address"),
        ("endpoint=http://e", "out=.* is not empty and not an evaluation"),
    ],
)
def test_who_is_asked_and_out_are_looked_at_before_the_questions(tmp_path: Path, word: str, says: str) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "stranger").touch()
    config = resolve("eval", EvalConfig, [f"data={tmp_path / 'none'}", f"out={tmp_path / 'o'}", word.format(tmp_path)])
    with pytest.raises(ConfigError, match=says):
        command.run(config)


def test_the_papers_protocol_is_the_default() -> None:
    config = checked("checkpoint=c", "benchmarks=[all]")
    assert (config.runs, config.temperature, config.few_shot, config.answer_template) == (3, 0.0, 0, "long")
    assert command.checkpoints_of(config) == [config]


@pytest.mark.parametrize("words", [["checkpoint=c"], ["endpoint=http://e"]])
@pytest.mark.parametrize("which", ["best", "all"])
def test_a_choice_among_checkpoints_needs_a_run(words: list[str], which: str) -> None:
    with pytest.raises(ConfigError, match=f"checkpoints={which} needs checkpoint=RUN"):
        command.checkpoints_of(checked("data=d", f"checkpoints={which}", *words))


def summary_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """Two of the seven, with invented rows."""
    folder = tmp_path / "benchmarks"
    write_rows(folder / "mmlu_test.jsonl", *(mmlu_row(number, answer=number % 3) for number in range(8)))
    write_rows(folder / "math500.jsonl", *map(math500_row, range(5)))
    return folder


def test_a_perfect_model_gets_everything(benchmarks: Path, tmp_path: Path) -> None:
    """An oracle that finds the gold by the prompt, in the words that training uses."""
    rows = [
        row(number, kind, gold) for number, (kind, gold) in enumerate([("open", "two words"), ("math", "\\pi")] * 3)
    ]
    write_pool(tmp_path / "pool", rows)
    words = ["eval", "benchmarks=[mmlu_test,math500]", f"benchmarks_path={benchmarks}", f"data={tmp_path / 'pool'}"]
    config = resolve("eval", EvalConfig, [*words[1:], "out=o"])
    asked = command.read_questions(config).asked
    assert len(asked) == 19
    replies = {one.row.prompt[-1]["content"]: boxed(one.row.ground_truth[0]) for one in asked}
    with endpoint(tmp_path, replies=replies, default="no") as url:
        done = succeed(*words, f"endpoint={url}", f"out={tmp_path / 'e'}", "runs=2")
    summary = summary_of(tmp_path / "e")
    assert (summary["questions"], summary["answers"], summary["invalid"]) == (19, 38, 0)
    assert summary["accuracy"] == summary["format"] == summary["reward"] == summary["answer_accuracy"] == 1
    assert list(summary["benchmarks"]) == ["quiz", "mmlu_test", "math500"]
    assert summary["average"]["of"] == ["mmlu_test", "math500"] and summary["average"]["all"] == 1
    facts = summary["facts"]
    assert facts["model"] == "small" and facts["rules_hash"] and facts["too_long"] == 0
    assert facts["protocol"]["runs"] == 2 and facts["also_in_training"] is None
    assert "mean of 2 benchmarks: 1.0000" in done.stdout and "38/38 answers" in done.stderr


def test_a_constant_answer_gets_its_share(benchmarks: Path, tmp_path: Path) -> None:
    """3 of the 8 golds are A; without a think block the form is wrong, and accuracy counts nevertheless."""
    words = ["eval", "benchmarks=[mmlu_test,math500]", f"benchmarks_path={benchmarks}", "runs=1"]
    with endpoint(tmp_path, default="The answer is \\boxed{A}") as url:
        succeed(*words, f"endpoint={url}", f"out={tmp_path / 'e'}")
    found = summary_of(tmp_path / "e")["benchmarks"]
    assert found["mmlu_test"]["accuracy"] == 3 / 8 and found["mmlu_test"]["reward"] == 0
    assert found["math500"]["accuracy"] == 0


def test_no_box_and_cut_off_are_counted(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", [row(number, gold="A") for number in range(4)])
    replies = {
        "Question 0 of quiz?": boxed("A"),
        "Question 1 of quiz?": "<think>so</think>It is A",
        "Question 2 of quiz?": boxed("B"),
    }
    words = ["eval", f"data={tmp_path / 'pool'}", "runs=1"]
    with endpoint(tmp_path, replies=replies, default="<think>hm", usage=False, finish_reason="length") as url:
        succeed(*words, f"endpoint={url}", f"out={tmp_path / 'e'}")
    summary = summary_of(tmp_path / "e")
    lines = [json.loads(line) for line in (tmp_path / "e" / "samples.jsonl").read_text().splitlines()]
    assert [line["verdict"]["status"] for line in lines] == ["correct", "truncated", "wrong", "truncated"]
    assert [line["answer_accuracy"] for line in lines] == [1, 1, 0, 0]
    assert (summary["accuracy"], summary["no_box"], summary["truncated"]) == (0.25, 0.5, 1.0)
    assert summary["answer_accuracy"] == 0.5 and summary["tokens"]["mean"] is None


def test_every_checkpoint_of_a_run(tiny_world: TinyWorld, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_world.finished_run(run)
    common = ["eval", f"checkpoint={run}", f"data={tiny_world.held_out}", "limit=2", "runs=1", "threads=1",
              "max_response_tokens=40", tiny_world.judged]  # fmt: skip
    words = [*common, "checkpoints=all", f"out={tmp_path / 'all'}"]
    succeed(*words)
    (line,) = json.loads((tmp_path / "all" / "steps.json").read_text())
    summary = summary_of(tmp_path / "all" / "step_000001")
    assert line["step"] == 1 and line["accuracy"] == summary["accuracy"] and summary["questions"] == 12
    assert summary["facts"]["checkpoint"] == str(run / "checkpoints" / "step_000001")
    assert summary["facts"]["also_in_training"] == 0
    assert len(from_pool(tiny_world.held_out, 2).asked) == 12
    again = succeed(*words, "resume=true")
    assert "step_000001 is finished" in again.stderr
    refused = crossthink(*common, "checkpoints=best", f"out={tmp_path / 'best'}")
    assert refused.returncode == EXIT_USAGE and "no best checkpoint yet" in refused.stderr
