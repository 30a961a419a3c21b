"""Worked examples before the questions of a benchmark."""

import dataclasses

import pytest
from pool_helpers import write_pool
from question_rows import by_benchmark, math500_row, mmlu_row, pool_row, settings, write_rows

from crossthink.errors import ConfigError, UserError
from data_prep.templates import load_prompts
from recipes.evaluation.questions import from_benchmarks

PROMPTS = load_prompts()


@pytest.fixture
def folder(tmp_path):
    """Rows of two benchmarks."""
    write_rows(tmp_path / "math500.jsonl", *map(math500_row, range(3)))
    write_rows(tmp_path / "mmlu_test.jsonl", *map(mmlu_row, range(3)))
    return tmp_path


def example_pool(path):
    rows = [
        pool_row(1, ground_truth=["{"], question="Braces?"),
        pool_row(2, question="What is $0+1$?", ground_truth=["1"]),
        pool_row(3),
        pool_row(3),
        pool_row(4),
        pool_row(5, kind="mcq"),
        pool_row(6, kind="mcq", ground_truth=["A"]),
        pool_row(7, kind="mcq", ground_truth=["C. z"]),
    ]
    return write_pool(path, rows)


def test_worked_examples_are_earlier_turns(folder, tmp_path):
    pool = example_pool(tmp_path / "examples")
    path = str(tmp_path / "examples")
    questions = from_benchmarks(settings(folder, "math500", "mmlu_test", few_shot=2, few_shot_path=path))
    asked = by_benchmark(questions)
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    assert all([message["role"] for message in one.row.prompt] == roles for one in questions.asked)

    def shown(one):
        return [message["content"] for message in one.row.prompt[2:5:2]]

    think = "<think>\n\n</think>\n\n"
    assert shown(asked["math500"][0]) == [f"{think}\\boxed{{3}}", f"{think}\\boxed{{4}}"], "not the question itself"
    assert shown(asked["math500"][1]) == [f"{think}\\boxed{{1}}", f"{think}\\boxed{{3}}"]
    assert shown(asked["mmlu_test"][0]) == [f"{think}\\boxed{{B. y}}", f"{think}\\boxed{{A. x}}"]
    assert asked["mmlu_test"][0].row.prompt[1]["content"] == PROMPTS.mcq_long.replace("{question}", "Say 5.").replace(
        "{options}", "A. x\nB. y"
    )
    short = settings(folder, "mmlu_test", few_shot=1, few_shot_path=path, answer_template="short")
    assert from_benchmarks(short).asked[0].row.prompt[2]["content"] == f"{think}\\boxed{{B}}"
    assert questions.facts["math500"]["few_shot"] == {"count": 2, "pool_sha256": pool.sha256}
    none = from_benchmarks(settings(folder, "math500", "mmlu_test"))
    assert none.sha256 != questions.sha256
    assert [one.row.id for one in none.asked] == [one.row.id for one in questions.asked]


def test_too_few_examples_are_refused(folder, tmp_path):
    example_pool(tmp_path / "examples")
    config = settings(folder, "mmlu_test", few_shot=3, few_shot_path=str(tmp_path / "examples"))
    with pytest.raises(ConfigError, match=r"few_shot=3, but the pool .* has only 2 rows of kind mcq"):
        from_benchmarks(config)
    with pytest.raises(UserError, match="is not a pool"):
        from_benchmarks(dataclasses.replace(config, few_shot_path=str(tmp_path / "none")))
