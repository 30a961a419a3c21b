import dataclasses
import fnmatch
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from conf.prep import SourceConfig
from crossthink.errors import ConfigError, UserError
from data_prep import filters
from data_prep.rows import Drop, Question
from data_prep.sources import SOURCES, get_source
from data_prep.sources.base import LICENCES, allows_commercial, strictest_licence
from data_prep.sources.math import TOPICS, last_boxed
from data_prep.sources.syn_qa import split_gold, split_options


def parse(name, raw):
    return get_source(name).parse(raw)


def test_facts_are_the_ones_of_table_1():
    assert sum(source.paper_rows for source in SOURCES.values() if source.paper_rows) == 588_645
    assert {name for name, source in SOURCES.items() if source.paper_rows and source.domain == "math"} == {
        "math",
        "numina_math",
        "personaskill_math",
    }
    assert {name: source.paper_sample for name, source in SOURCES.items() if source.paper_sample} == {
        "natural_reasoning": 100_000,
        "numina_math": 87_350,
    }
    assert [source.paper_levels for source in SOURCES.values() if source.paper_levels] == [(3, 4, 5)]


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_what_nobody_checked_is_marked(source):
    assert ("revision" in source.unverified) == (source.revision is None)
    assert source.revision is None or re.fullmatch("[0-9a-f]{40}", source.revision)
    facts = source.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["unverified"] == list(source.unverified)
    assert set(source.unverified) <= {field.name for field in dataclasses.fields(source)}


@pytest.mark.parametrize(
    ("name", "taken", "left"),
    [
        ("syn_qa", ["Data/Nemotron-CrossThink-QA.jsonl"], ["Data/Nemotron-CrossThink-Math.jsonl"]),
        ("syn_qa", ["Nemotron-CrossThink-QA_qa.jsonl"], ["Nemotron-CrossThink-Math_qa.jsonl"]),
        ("personaskill_math", ["Data/Nemotron-CrossThink-Math.jsonl"], ["Data/Nemotron-CrossThink-QA.jsonl"]),
        (
            "mmlu_train",
            ["all/auxiliary_train-00000-of-00001.parquet"],
            ["all/test-00000-of-00001.parquet", "auxiliary_train/train-00000-of-00001.parquet"],
        ),
        ("natural_reasoning", ["full.jsonl"], ["science_reasoning_8.7k.jsonl"]),
        ("natural_reasoning", ["train.jsonl"], ["train_science_reasoning_8.7k.jsonl"]),
        ("numina_math", ["data/train-00000-of-00003.parquet"], ["data/test-00000-of-00001.parquet"]),
        (
            "math",
            [f"{topic}/train-00000-of-00001.parquet" for topic in TOPICS],
            ["algebra/test-00000-of-00001.parquet"],
        ),
    ],
)
def test_file_patterns_take_the_files_of_the_hub(name, taken, left):
    def matches(file, patterns):
        return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns.split("|"))

    patterns = SOURCES[name].files
    assert all(any(matches(file, pattern) for file in taken) for pattern in patterns)
    assert all(any(matches(file, pattern) for pattern in patterns) for file in taken)
    assert not any(matches(file, pattern) for file in left for pattern in patterns)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_config_of_a_source_states_every_key_and_the_papers_sample(source):
    path = Path(__file__).resolve().parents[2] / "conf" / "sources" / f"{source.name}.yaml"
    stated = OmegaConf.to_container(OmegaConf.load(path))
    assert path.read_text().startswith(f"# @package sources.{source.name}\n")
    assert list(stated) == [field.name for field in dataclasses.fields(SourceConfig)]
    assert {key: value for key, value in stated.items() if value is not None} == (
        {"sample": source.paper_sample} if source.paper_sample else {}
    )


def test_licences():
    assert all(source.licence in LICENCES for source in SOURCES.values())
    assert strictest_licence({"MIT", "CC-BY-NC-4.0", "CC-BY-4.0"}) == "CC-BY-NC-4.0"
    assert strictest_licence(["Apache-2.0", "MIT"]) == "Apache-2.0"
    assert [name for name, source in SOURCES.items() if not allows_commercial(source.licence)] == ["natural_reasoning"]


@pytest.mark.parametrize("ask", [allows_commercial, lambda licence: strictest_licence({"MIT", licence})])
def test_nothing_is_assumed_of_an_unknown_licence(ask):
    with pytest.raises(UserError, match="licence 'cc-by-4.0' is not known. Known, .*CC-BY-4.0"):
        ask("cc-by-4.0")


def test_unknown_source_lists_the_names():
    with pytest.raises(ConfigError, match=r"no source 'mmlu_trian'. Allowed: mmlu_train, .*Did you mean 'mmlu_train'"):
        get_source("mmlu_trian")


@pytest.mark.parametrize("name", SOURCES)
def test_hand_made_rows_read(name, raw_file, raw_rows):
    path = raw_file(name)
    questions = list(SOURCES[name].read(path))
    assert [question.row for question in questions] == list(range(1, len(raw_rows[name]) + 1))
    for question in questions:
        assert isinstance(question, Question)
        assert (question.source, question.domain, question.file) == (name, SOURCES[name].domain, path.name)
        assert question.meta["licence"] == SOURCES[name].licence
        assert question.question == question.question.strip() != ""
    assert len(list(SOURCES[name].read(path, limit=1))) == 1


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [(name, 0, field.split("|")[0].split(".")[0]) for name, source in SOURCES.items() for field in source.schema],
)
def test_a_missing_field_is_named_with_file_line_and_the_fields_found(name, row, field, raw_file, raw_rows):
    rows = raw_rows[name] + raw_rows[name][:1]
    rows[-1] = {key: value for key, value in rows[row].items() if key != field} | {"other": 1}
    path = raw_file(name, rows)
    with pytest.raises(UserError) as error:
        list(SOURCES[name].read(path))
    assert str(error.value).startswith(f"{path}, line {len(rows)}: no field '{field}")
    assert f"which source {name} needs" in str(error.value) and "other" in str(error.value)


def test_a_field_inside_another_is_named(raw_file, raw_rows):
    raw_rows["syn_qa"][0]["meta_data"] = None
    with pytest.raises(UserError, match=r"no field 'meta_data.question'"):
        list(SOURCES["syn_qa"].read(raw_file("syn_qa", raw_rows["syn_qa"])))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("mmlu_train", {"answer": 4}, "line 1: answer is 4, expected a whole number from 0 to 3"),
        ("mmlu_train", {"answer": "B"}, "line 1: answer is 'B'"),
        ("mmlu_train", {"answer": True}, "line 1: answer is True"),
        ("mmlu_train", {"answer": None}, "line 1: answer is None"),
        ("mmlu_train", {"choices": ["a", "b", "c"]}, "line 1: choices is"),
        ("mmlu_train", {"choices": ["a", "b", "c", 4]}, "line 1: choices is"),
        ("mmlu_train", {"question": 7}, "line 1: question is 7, expected text"),
        ("math", {"level": "hard"}, "line 1: level is 'hard', expected 1 to 5"),
        ("math", {"level": 6}, "line 1: level is 6"),
        ("natural_reasoning", {"reference_answer": 4}, "line 1: reference_answer is 4, expected text"),
        ("personaskill_math", {"reward_model": {"ground_truth": 4}}, "reward_model.ground_truth is 4, expected text"),
    ],
)
def test_a_wrong_type_or_range_is_named(name, change, says, raw_file, raw_rows):
    with pytest.raises(UserError, match=says):
        list(SOURCES[name].read(raw_file(name, [raw_rows[name][0] | change])))


def test_an_empty_question_is_dropped_and_counted(raw_file, raw_rows):
    row = raw_rows["natural_reasoning"][0] | {"question": " \n"}
    assert list(SOURCES["natural_reasoning"].read(raw_file("natural_reasoning", [row]))) == [Drop("question_empty")]


def test_several_files_read_in_order_up_to_the_limit(tmp_path, raw_rows):
    files = [tmp_path / "b.jsonl", tmp_path / "a.jsonl"]
    for file in files:
        file.write_text("".join(json.dumps(row) + "\n" for row in raw_rows["math"]))
    questions = list(SOURCES["math"].read(files, limit=3))
    assert [(question.file, question.row) for question in questions] == [("b.jsonl", 1), ("b.jsonl", 2), ("a.jsonl", 1)]


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_unread_fields_are_not_missed(source, raw_rows):
    for row in raw_rows[source.name]:
        kept = {key: value for key, value in row.items() if key not in source.unread}
        assert source.convert(kept, Path("f.jsonl"), 1) == source.convert(row, Path("f.jsonl"), 1)


def test_mmlu_rows_wrapped_in_a_struct_read_the_same(tmp_path, raw_rows):
    """As the hub's configuration `auxiliary_train` has them."""
    pq.write_table(pa.Table.from_pylist(raw_rows["mmlu_train"]), tmp_path / "flat.parquet")
    pq.write_table(
        pa.Table.from_pylist([{"train": row} for row in raw_rows["mmlu_train"]]), tmp_path / "nested.parquet"
    )
    flat, nested = (
        [
            dataclasses.replace(question, file="")
            for question in SOURCES["mmlu_train"].read(tmp_path / f"{name}.parquet")
        ]
        for name in ("flat", "nested")
    )
    assert flat == nested and len(flat) == 2
    with pytest.raises(UserError, match="no field 'choices', .*The row has question, subject, answer;"):
        del raw_rows["mmlu_train"][0]["choices"]
        SOURCES["mmlu_train"].convert({"train": raw_rows["mmlu_train"][0]}, tmp_path, 1)


def test_mmlu_letter(raw_rows):
    question = parse("mmlu_train", raw_rows["mmlu_train"][1])
    assert (question.gold_label, question.gold_text, question.option_text("C")) == ("C", "8", "8")


def test_math_answer_and_level(raw_rows):
    first, second = (parse("math", raw) for raw in raw_rows["math"])
    assert (first.answers, first.meta["level"], first.meta["subject"]) == (("2",), 1, "Algebra")
    assert (second.answers, second.meta["level"], second.meta["subject"]) == ((r"\frac{3}{2}",), 3, "Prealgebra")
    assert parse("math", raw_rows["math"][0] | {"level": "Level ?"}).meta["level"] is None


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"so \boxed{2}", "2"),
        (r"\boxed{1} then \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
        (r"\boxed {x}", "x"),
        (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}"),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{1} and \boxed 2", None),
        (r"\boxed{}", ""),
        (r"\fbox{4}", None),
        ("nothing", None),
        ("", None),
        ("\\boxed{a\\", None),
    ],
)
def test_last_box(solution, answer):
    assert last_boxed(solution) == answer


@settings(deadline=None)
@given(st.text(alphabet="ab{}\\ $", max_size=20).filter(lambda t: balanced(t)))
def test_a_balanced_answer_comes_back(answer):
    assert last_boxed(rf"first \boxed{{0}}, so \boxed{{{answer}}} holds") == answer.strip()


def balanced(text):
    depth = at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
            if at == len(text):
                return False
        else:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth < 0:
                return False
        at += 1
    return depth == 0


@pytest.mark.parametrize(
    ("text", "stem", "options"),
    [
        ("Q?\nA. x\nB. y", "Q?", [("A", "x"), ("B", "y")]),
        ("Q?\n\nA: x\nB: y\nC: z \n", "Q?", [("A", "x"), ("B", "y"), ("C", "z")]),
        ("Q?\n A) x\n B) y", "Q?", [("A", "x"), ("B", "y")]),
        ("Q?\nA: one\ntwo\n\nthree\nB: y\nz", "Q?", [("A", "one\ntwo\n\nthree"), ("B", "y\nz")]),
        ("Q?\nA:\n```\nx\n```\nB:\n```\ny\n```", "Q?", [("A", "```\nx\n```"), ("B", "```\ny\n```")]),
        # A stem that lists things by letter: the longest run wins, of equal ones the last.
        (
            "Given\nA. this\nB. that\nwhich?\nA. x\nB. y\nC. z",
            "Given\nA. this\nB. that\nwhich?",
            [("A", "x"), ("B", "y"), ("C", "z")],
        ),
        ("Given\nA. this\nB. that\nwhich?\nA. x\nB. y", "Given\nA. this\nB. that\nwhich?", [("A", "x"), ("B", "y")]),
        # The mark of A is the mark of all.
        ("Q?\nA: x\nB. not an option\nB: y", "Q?", [("A", "x\nB. not an option"), ("B", "y")]),
        ("Q?\nA: x\nB: y\n\nEnsure that one is right.", "Q?", [("A", "x"), ("B", "y")]),
        ("Q?\nA: x\n\nx2\nB: y\n\ny2", "Q?", [("A", "x\n\nx2"), ("B", "y\n\ny2")]),
        ("Q?\nA: x\nB: \nC: z", "Q?", [("A", "x"), ("B", ""), ("C", "z")]),
        ("No options at all", "No options at all", []),
        ("Only\nA. one", "Only\nA. one", []),
        ("A.M. or P.M.?\nB. or not", "A.M. or P.M.?\nB. or not", []),
    ],
)
def test_inlined_options(text, stem, options):
    assert split_options(text) == (stem, tuple(options))


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("F", ("F", None)),
        ("F: some text", ("F", "some text")),
        ("F. a\nb", ("F", "a\nb")),
        ("F) x", ("F", "x")),
        ("F:", ("F", None)),
        ("some text", (None, "some text")),
        ("", (None, "")),
    ],
)
def test_gold(gold, expected):
    assert split_gold(gold) == expected


def test_a_syn_qa_row_without_options_is_dropped(raw_rows):
    raw = raw_rows["syn_qa"][0] | {"meta_data": {"question": "No options?"}}
    assert parse("syn_qa", raw) == Drop("no_options_in_question")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "proof"}, "answer_proof"),
        ({"answer": "notfound"}, "answer_notfound"),
        ({"problem_is_valid": "Incomplete"}, "problem_not_valid"),
        ({"problem_is_valid": None}, "problem_not_valid"),
        ({"solution_is_valid": "No"}, "solution_not_valid"),
    ],
)
def test_numina_rows_without_a_verifiable_answer_are_dropped(change, reason, raw_rows):
    assert parse("numina_math", raw_rows["numina_math"][0] | change) == Drop(reason)


def test_real_crossthink_rows_parse_and_disagreements_are_found(shared_data, tmp_path):
    lead_in = "inside \\boxed{}. \n"
    rows = [json.loads(line) for line in (shared_data / "nemotron_crossthink_qa_roll_transformed.jsonl").open()]
    path = tmp_path / "qa.jsonl"
    with path.open("w", encoding="utf-8") as handle:
        for row in rows:
            outer = {
                "data_source": row["source"],
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "reward_model": {"style": "rule", "ground_truth": row["ground_truth"]},
                "meta_data": {"question": row["prompt"].split(lead_in, 1)[1], "index": int(row["id"])},
            }
            handle.write(json.dumps(outer) + "\n")
    questions = list(SOURCES["syn_qa"].read(path))
    assert all(isinstance(question, Question) for question in questions)
    assert Counter(len(question.options) for question in questions) == {10: 356, 4: 51}
    # A parser by lines finds 63: it also cuts one right gold, a block of code.
    assert Counter(map(filters.mcq, questions)) == {None: 345, "letter_and_text_disagree": 62}


def test_real_samples_of_the_other_schemas(shared_data):
    numina = list(SOURCES["numina_math"].read(shared_data / "numinamath_1_5_two_rows.jsonl"))
    assert numina == [Drop("answer_proof")] * 2
    natural = list(SOURCES["natural_reasoning"].read(shared_data / "natural_reasoning_two_rows_no_responses.jsonl"))
    assert [filters.open_ended(question, 10) for question in natural] == [None, "answer_too_long"]
    with pytest.raises(UserError, match="no field 'answer', which source numina_math needs"):
        list(SOURCES["numina_math"].read(shared_data / "numinamath_cot_three_rows.jsonl"))
