"""Every benchmark's golds under the reward server's own rules, on samples of the real rows and on invented ones."""

import functools
from collections import Counter

import pytest
from question_rows import SHARED, agieval_math_row, agieval_row, gpqa_row, settings, write_rows

from data_prep.benchmarks import BENCHMARKS
from recipes.evaluation.questions import from_benchmarks
from reward_server.local import LocalJudge
from reward_server.scoring.mcq import option_text
from reward_server.verdicts import BAD_GOLD, CORRECT, Item

ROWS = {
    "mmlu_test": 1003,
    "mmlu_pro": 711,
    "gpqa_diamond": 20,
    "agieval": 1412,
    "agieval_math": 502,
    "supergpqa": 566,
    "math500": 244,
    "amc23": 18,
}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A function: the questions of a benchmark, for GPQA invented ones, else real ones, without which it skips."""
    invented = write_rows(tmp_path_factory.mktemp("gpqa") / "gpqa_diamond.csv", *map(gpqa_row, range(20))).parent

    @functools.cache
    def asked(name):
        if name != "gpqa_diamond" and not SHARED.is_dir():
            pytest.skip("no shared/data folder beside the repository: the real rows are not part of it")
        folder = invented if name == "gpqa_diamond" else SHARED
        questions = from_benchmarks(settings(folder, "agieval" if name == "agieval_math" else name))
        rows = [one.row for one in questions.asked if one.benchmark == name]
        assert len(rows) == ROWS[name]
        return rows

    return asked


@pytest.fixture(scope="module")
def judge():
    with LocalJudge() as judge:
        yield judge


def statuses(judge, rows, answer):
    """The verdict's status for every row, when it is answered `answer(row)` in good form."""
    items = [
        Item(
            row.id,
            row.kind,
            f"<think>so</think>\\boxed{{{answer(row)}}}",
            tuple(row.ground_truth),
            None if row.options is None else tuple(row.options.items()),
        )
        for row in rows
    ]
    return [verdict.status for verdict in judge.score(items)]


def gold(row):
    (text,) = row.ground_truth
    return text


def distinct(row):
    """Whether no other option has the gold's text; where one has, the text alone names neither."""
    texts = Counter(option_text(text) for text in row.options.values())
    return texts[option_text(row.options[gold(row)])] == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ROWS)
def test_the_gold_is_right_everywhere(asked, judge, name):
    found = Counter(statuses(judge, asked(name), gold))
    assert found[BAD_GOLD] == 0
    assert found == {CORRECT: ROWS[name]}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["mmlu_test", "mmlu_pro", "gpqa_diamond", "agieval", "supergpqa"])
def test_label_text_and_both_are_right(asked, judge, name):
    rows = asked(name)
    assert all(gold(row) in row.options for row in rows), "a bare label each"
    both = statuses(judge, rows, lambda row: f"{gold(row)}. {row.options[gold(row)]}")
    assert set(both) == {CORRECT}
    alone = [row for row in rows if distinct(row)]
    assert len(rows) - len(alone) <= 1, "texts that two options share are rare"
    assert set(statuses(judge, alone, lambda row: row.options[gold(row)])) == {CORRECT}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["mmlu_test", "mmlu_pro", "gpqa_diamond", "agieval", "supergpqa"])
def test_a_constant_answer_is_right_as_often_as_it_is_the_gold(asked, judge, name):
    rows = asked(name)
    for label in "AD":
        found = statuses(judge, rows, lambda row, label=label: label)
        assert found.count(CORRECT) == sum(gold(row) == label for row in rows) > 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["mmlu_test", "supergpqa", "agieval"])
def test_every_other_option_is_wrong(asked, judge, name):
    rows = asked(name)[:200]

    def other(row):
        return next(label for label in row.options if label != gold(row))

    assert CORRECT not in statuses(judge, rows, other)
    assert CORRECT not in statuses(judge, rows, lambda row: f"{other(row)}. {row.options[gold(row)]}x")


def test_gold_formats(asked):
    assert all(row.ground_truth[0].lstrip("-").isdecimal() for row in asked("amc23")), "whole numbers, not floats"
    assert {row.kind for name in ("math500", "amc23", "agieval_math") for row in asked(name)} == {"math"}
    assert (
        max(len(row.options) for row in asked("mmlu_pro")) == max(len(row.options) for row in asked("supergpqa")) == 10
    )
    for name in ROWS:
        rows = asked(name)
        assert len({row.id for row in rows}) == len(rows)
        assert {row.source for row in rows} == {name}


@pytest.mark.timeout(120)
def test_a_row_without_gold_is_bad_and_several_labels_must_all_be_given(tmp_path, judge):
    unlabelled, unanswered = {**agieval_row(1), "label": None}, {**agieval_math_row(1), "answer": ""}
    write_rows(tmp_path / "agieval_jec-qa-kd.jsonl", unlabelled, unanswered, agieval_row(3, ["C", "A"]))
    rows = [one.row for one in from_benchmarks(settings(tmp_path, "agieval", agieval_tasks=["jec-qa-kd"])).asked]
    for answer, status in (("A, C", CORRECT), ("C,A", CORRECT), ("A", "wrong"), ("A,B,C", "wrong")):
        assert statuses(judge, rows, lambda _, answer=answer: answer) == [BAD_GOLD, BAD_GOLD, status]


def test_every_benchmark_is_tested_here():
    assert set(ROWS) == {*BENCHMARKS, "agieval_math"}
