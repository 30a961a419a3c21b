"""What an evaluation asks: which questions, in which words, in which order, and what is recorded of them."""

import dataclasses
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_helpers import write_pool
from question_rows import (
    agieval_math_row,
    agieval_row,
    by_benchmark,
    gpqa_row,
    math500_row,
    mmlu_row,
    pool_row,
    settings,
    write_rows,
)

from conf.evaluate import QuestionsConfig
from crossthink.errors import ConfigError, UserError
from data_prep.benchmarks import BENCHMARKS
from data_prep.benchmarks.access import Absent
from data_prep.templates import load_prompts
from recipes.evaluation.questions import Asked, QuestionSet, from_benchmarks, from_pool, join, spread

PROMPTS = load_prompts()
TASKS = ["lsat-ar", "math", "sat-math"]


@pytest.fixture
def folder(tmp_path):
    """Rows of four benchmarks; amc23, mmlu_pro and supergpqa are absent."""
    write_rows(tmp_path / "math500.jsonl", *map(math500_row, range(10)))
    write_rows(tmp_path / "mmlu_test.jsonl", *map(mmlu_row, range(4)))
    write_rows(tmp_path / "gpqa_diamond.csv", *map(gpqa_row, range(3)))
    write_rows(tmp_path / "agieval_lsat_ar.jsonl", agieval_row(1), agieval_row(2, ["A", "C"]))
    write_rows(tmp_path / "agieval_sat-math.jsonl", agieval_row(3))
    write_rows(tmp_path / "agieval_math.jsonl", agieval_math_row(7))
    return tmp_path


def test_all_of_a_folder_in_the_order_of_the_paper(folder):
    questions = from_benchmarks(settings(folder, "all", agieval_tasks=TASKS))
    names = ["mmlu_test", "mmlu_pro", "gpqa_diamond", "agieval", "agieval_math", "supergpqa", "math500", "amc23"]
    assert list(questions.facts) == names
    assert [len(asked) for asked in by_benchmark(questions).values()] == [4, 0, 3, 3, 1, 0, 10, 0]
    assert set(questions.absent) == {"mmlu_pro", "supergpqa", "amc23"}
    assert "is not in benchmarks_path=" in questions.absent["amc23"]
    assert [one.benchmark for one in questions.asked] == [
        name for name, asked in by_benchmark(questions).items() for _ in asked
    ]
    json.dumps(questions.facts)


def test_a_named_benchmark_must_be_there(folder):
    with pytest.raises(Absent, match=r"Benchmark amc23 is not in benchmarks_path=.*as amc23\.jsonl or amc23/"):
        from_benchmarks(settings(folder, "math500", "amc23"))
    (folder / "part").mkdir()
    (folder / "part" / "amc23.jsonl").touch()
    with pytest.raises(Absent, match="as gpqa_diamond.csv, gpqa_diamond.jsonl or gpqa_diamond/"):
        from_benchmarks(settings(folder / "part", "gpqa_diamond"))
    assert list(from_benchmarks(settings(folder, "mmlu_test", "math500")).facts) == ["mmlu_test", "math500"]


def test_only_label_is_the_gold_and_the_words_are_those_of_training(folder):
    for template, wording in (("long", PROMPTS.mcq_long), ("short", PROMPTS.mcq_short)):
        questions = from_benchmarks(settings(folder, "mmlu_test", answer_template=template))
        row = questions.asked[0].row
        assert (row.kind, row.ground_truth, row.source) == ("mcq", ["B"], "mmlu_test")
        lines = "A. 0 legs\nB. eight\nC. nine\nD. ten"
        user = wording.replace("{question}", "How many legs have 0 things?").replace("{options}", lines)
        system = {"role": "system", "content": PROMPTS.system}
        assert row.prompt == [system, {"role": "user", "content": user}]
        assert questions.facts["mmlu_test"]["answer_template"] == template
    assert questions.facts["mmlu_test"]["prompts"]["system"] == PROMPTS.describe()["system"]["sha256"]


def test_own_prompts_are_taken(folder, tmp_path):
    words = tmp_path / "words"
    words.mkdir()
    for name, text in dataclasses.asdict(PROMPTS).items():
        (words / f"{name}.txt").write_text("" if name == "system" else "Say: " + text)
    questions = from_benchmarks(settings(folder, "math500", prompts=str(words)))
    (message,) = questions.asked[0].row.prompt
    assert message["content"].startswith("Say: What is $0+1$?")
    plain = from_benchmarks(settings(folder, "math500"))
    assert questions.sha256 != plain.sha256
    assert questions.facts["math500"]["prompts"] != plain.facts["math500"]["prompts"]


def test_facts_of_a_benchmark(folder):
    facts = from_benchmarks(settings(folder, "math500", limit=4)).facts["math500"]
    assert (facts["rows"], facts["asked"], facts["expected_rows"], facts["duplicates"]) == (10, 4, 500, 0)
    assert (facts["hf_id"], facts["licence"], facts["gated"]) == ("HuggingFaceH4/MATH-500", "MIT", False)
    assert facts["revision"] is None, "nobody knows which revision local rows are from"
    assert [file["name"] for file in facts["files"]] == ["math500.jsonl"] and len(facts["files"][0]["sha256"]) == 64
    assert str(folder) not in json.dumps(facts), "the same rows elsewhere are the same questions"
    assert facts["few_shot"] is None and facts["unverified"] and facts["overlaps"]


def test_groups_and_gpqa_is_private(folder):
    asked = by_benchmark(from_benchmarks(settings(folder, "all", agieval_tasks=TASKS)))
    assert asked["mmlu_test"][0].groups == {"subject": "zoology"}
    assert asked["math500"][3].groups == {"subject": "Algebra", "level": "4"}
    assert [one.groups["task"] for one in asked["agieval"]] == ["lsat-ar", "lsat-ar", "sat-math"]
    assert asked["gpqa_diamond"][0].groups == {"domain": "Physics", "subject": "Optics"}
    assert {name for name, many in asked.items() if any(one.private for one in many)} == {"gpqa_diamond"}
    assert all(one.private for one in asked["gpqa_diamond"])


def test_gpqa_is_shuffled_the_same_way_in_every_run_and_copy(folder, tmp_path):
    questions = from_benchmarks(settings(folder, "gpqa_diamond"))
    other = tmp_path / "elsewhere"
    write_rows(other / "gpqa_diamond.jsonl", *map(gpqa_row, range(3)))
    assert from_benchmarks(settings(other, "gpqa_diamond")).sha256 == questions.sha256
    for one in questions.asked:
        (label,) = one.row.ground_truth
        assert one.row.options[label] == "true"


def test_math_of_agieval_is_a_benchmark_of_its_own(folder):
    asked = by_benchmark(questions := from_benchmarks(settings(folder, "agieval", agieval_tasks=TASKS)))
    (math,) = asked["agieval_math"]
    assert (math.row.source, math.row.domain, math.row.kind) == ("agieval_math", "math", "math")
    assert math.groups == {"task": "math"} and math.row.ground_truth == ["7"]
    assert {one.row.domain for one in asked["agieval"]} == {"gpr"}
    assert [one.row.ground_truth for one in asked["agieval"]] == [["A"], ["A,C"], ["A"]]
    facts = questions.facts
    assert facts["agieval"]["tasks"] == ["lsat-ar", "sat-math"] and facts["agieval"]["expected_rows"] == 450
    assert facts["agieval_math"]["tasks"] == ["math"] and facts["agieval_math"]["expected_rows"] == 1000
    assert "102 of its 1,000 problems stand in MATH-500" in facts["agieval_math"]["overlaps"][0]
    assert [file["name"] for file in facts["agieval_math"]["files"]] == ["agieval_math.jsonl"]
    only = from_benchmarks(settings(folder, "agieval", agieval_tasks=["lsat_ar"]))
    assert list(only.facts) == ["agieval"] and len(only.asked) == 2
    assert list(from_benchmarks(settings(folder, "agieval", agieval_tasks=["math"])).facts) == ["agieval_math"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"benchmarks": ["mmlu"]}, r"benchmarks: there is no mmlu\..*Allowed: mmlu_test, .*amc23, all\."),
        ({"benchmarks": ["math50"]}, "Did you mean 'math500'"),
        ({"benchmarks": ["agieval_math"]}, "comes with agieval, where agieval_tasks has math"),
        ({"agieval_tasks": ["lsat-xr"]}, r"agieval_tasks: there is no lsat-xr\..*Allowed: aqua-rat, .*sat-math\."),
        ({"agieval_tasks": []}, "names none"),
        ({"agieval_tasks": ["lsat-ar", "lsat-lr"]}, r"no file of AGIEval's lsat-lr\. It has lsat-ar, math, sat-math"),
        ({"answer_template": "medium"}, "answer_template=medium: allowed are long, short"),
        ({"limit": 0}, "limit=0: allowed"),
        ({"few_shot": -1}, "few_shot=-1"),
        ({"few_shot": 2}, "few_shot=2 needs few_shot_path"),
        ({"benchmarks_path": "/nowhere"}, "benchmarks_path=/nowhere is not a folder"),
        ({"prompts": "/nowhere"}, "/nowhere is not a folder"),
    ],
)
def test_impossible_settings_are_refused(folder, change, says):
    config = settings(folder, "agieval", agieval_tasks=TASKS)
    with pytest.raises(ConfigError, match=says):
        from_benchmarks(dataclasses.replace(config, **change))


def test_a_file_of_no_task_and_a_second_copy_are_refused(folder):
    write_rows(folder / "agieval_exam.jsonl", agieval_row(1))
    with pytest.raises(ConfigError, match=r"agieval_exam\.jsonl names no task of AGIEval.*lsat-ar"):
        from_benchmarks(settings(folder, "agieval", agieval_tasks=TASKS))
    write_rows(folder / "math500_copy.jsonl", *map(math500_row, range(495)))
    with pytest.raises(ConfigError, match=r"math500 has 500 rows, but .*math500_copy\.jsonl have 505"):
        from_benchmarks(settings(folder, "math500"))
    write_rows(folder / "amc23.jsonl")
    with pytest.raises(ConfigError, match=r"amc23 has 40 rows, but .*amc23\.jsonl has 0"):
        from_benchmarks(settings(folder, "amc23"))


def test_a_row_without_a_field_is_named(folder):
    write_rows(folder / "math500.jsonl", math500_row(1), {"problem": "What?"})
    with pytest.raises(UserError, match=r"math500\.jsonl, line 2: no field 'answer'"):
        from_benchmarks(settings(folder, "math500"))


def test_rows_without_gold_are_asked_and_counted(folder):
    row = {**agieval_row(1), "label": None}
    open_row = {**agieval_math_row(1), "answer": None}
    write_rows(folder / "agieval_sat_en.jsonl", row, open_row)
    questions = from_benchmarks(settings(folder, "agieval", agieval_tasks=["sat-en"]))
    assert [one.row.ground_truth for one in questions.asked] == [[""], []]
    assert questions.facts["agieval"]["without_gold"] == 2


def test_ids_are_unique_in_a_benchmark(folder):
    rows = [mmlu_row(1), mmlu_row(2), mmlu_row(1), {**mmlu_row(1), "choices": ["ten", "eight", "1 legs", "nine"]}]
    write_rows(folder / "mmlu_test.jsonl", *rows)
    questions = from_benchmarks(settings(folder, "mmlu_test"))
    first, second, *again = [one.row.id for one in questions.asked]
    assert again == [f"{first}.2", f"{first}.3"] and first != second
    assert questions.facts["mmlu_test"]["duplicates"] == 2


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_a_limit_spreads_evenly(count, limit):
    chosen = list(spread(count, limit))
    assert len(chosen) == min(count, limit)
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(range(count))
    gaps = [after - before for before, after in itertools.pairwise([*chosen, count])]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1, "evenly"


def test_a_limit_is_for_each_benchmark_and_keeps_the_order(folder):
    whole = by_benchmark(from_benchmarks(settings(folder, "math500", "mmlu_test")))
    some = by_benchmark(from_benchmarks(settings(folder, "math500", "mmlu_test", limit=5)))
    assert some["mmlu_test"] == whole["mmlu_test"]
    assert some["math500"] == whole["math500"][::2]


def test_a_pool_is_asked_as_it_is(tmp_path):
    rows = [*(pool_row(at) for at in range(6)), pool_row(0, "t", "mcq"), pool_row(0, "t", "mcq")]
    pool = write_pool(tmp_path / "pool", rows)
    questions = from_pool(tmp_path / "pool", None)
    assert [one.row for one in questions.asked[:7]] == rows[:7]
    assert questions.asked[7].row == dataclasses.replace(rows[7], id="id0.2")
    assert [one.benchmark for one in questions.asked] == ["s"] * 6 + ["t"] * 2
    assert questions.asked[0].groups == {"domain": "math", "kind": "math"} and not questions.asked[0].private
    assert questions.facts["s"]["pool_sha256"] == pool.sha256 and questions.absent == {}
    some = from_pool(tmp_path / "pool", 3)
    assert [one.row.id for one in some.asked] == ["id0", "id2", "id4", "id0", "id0.2"]
    assert (some.facts["s"]["rows"], some.facts["s"]["asked"]) == (6, 3)
    with pytest.raises(ConfigError, match="limit=0"):
        from_pool(tmp_path / "pool", 0)


def test_sets_join_unless_their_names_clash(folder, tmp_path):
    write_pool(tmp_path / "pool", [pool_row(1), pool_row(2, "math500")])
    pool, mmlu, math = from_pool(tmp_path / "pool", None), *map(from_benchmarks, (
        settings(folder, "mmlu_test"), settings(folder, "math500")))  # fmt: skip
    both = join([pool, mmlu])
    assert both.asked == (*pool.asked, *mmlu.asked) and both.facts == {**pool.facts, **mmlu.facts}
    assert join([mmlu]).sha256 == mmlu.sha256 != both.sha256
    with pytest.raises(ConfigError, match="math500 is a benchmark and a source of the pool"):
        join([pool, math])


TEXT = st.text(max_size=8)
ROWS = st.lists(
    st.builds(
        lambda at, say, gold, options: pool_row(
            at, prompt=[{"role": "user", "content": say}], ground_truth=gold, options=options
        ),
        st.integers(0, 3),
        TEXT,
        st.lists(TEXT, max_size=2),
        st.none() | st.dictionaries(st.sampled_from("ABC"), TEXT, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


def sha256(rows, benchmark="b"):
    return QuestionSet(tuple(Asked(benchmark, one, {}) for one in rows), {}).sha256


@given(ROWS, st.data())
def test_every_change_of_a_question_changes_the_hash(rows, data):
    before = sha256(rows)
    assert sha256(list(rows)) == before != sha256(rows, "c")
    at = data.draw(st.integers(0, len(rows) - 1))
    old = rows[at]
    changes = [
        {"id": old.id + "x"},
        {"prompt": [{"role": "user", "content": old.prompt[0]["content"] + " "}]},
        {"prompt": [{**old.prompt[0], "role": "system"}]},
        {"ground_truth": [*old.ground_truth, "x"]},
        {"options": {**(old.options or {}), "D": "x"}},
    ]
    if old.options and len(old.options) > 1:
        changes.append({"options": dict(reversed(old.options.items()))})
    for change in changes:
        assert sha256([*rows[:at], dataclasses.replace(old, **change), *rows[at + 1 :]]) != before
    assert sha256(rows[:at] + rows[at + 1 :]) != before
    assert sha256([*rows[:at], dataclasses.replace(old, meta='{"x": 1}'), *rows[at + 1 :]]) == before


def test_the_default_tasks_are_tasks(tmp_path):
    tasks = QuestionsConfig().agieval_tasks
    for task in tasks:
        write_rows(tmp_path / f"agieval_{task}.jsonl", agieval_math_row(1) if task == "math" else agieval_row(1))
    questions = from_benchmarks(settings(tmp_path, "agieval"))
    assert questions.facts["agieval"]["tasks"] + questions.facts["agieval_math"]["tasks"] == sorted(
        tasks, key=lambda task: (task == "math", task)
    )
    assert BENCHMARKS["agieval"].expected_rows > questions.facts["agieval"]["expected_rows"] == 2852
