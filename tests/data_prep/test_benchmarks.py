"""The readers of the seven benchmarks, and finding their files."""

import json
import re

import pytest

from crossthink.errors import ConfigError, UserError
from data_prep.benchmarks import BENCHMARKS, find_benchmarks, read_items
from data_prep.benchmarks.agieval import TASKS, task_of, unmarked
from data_prep.rows import Drop, Question

# One raw row made by hand in each real schema.
ROWS = {
    "mmlu_test": {
        "question": "How many legs has a spider?",
        "subject": "zoology",
        "choices": list("4682"),
        "answer": 2,
    },
    "mmlu_pro": {
        "question_id": 7,
        "question": "Which gas do plants take in?",
        "options": ["oxygen ", "carbon dioxide", "neon", "N/A", "N/A"],
        "answer": "B",
        "answer_index": 1,
        "category": "biology",
        "src": "made up",
    },
    "gpqa_diamond": {
        "Question": "What turns blue?",
        "Correct Answer": "right",
        "Incorrect Answer 1": "wrong 1",
        "Incorrect Answer 2": "wrong 2",
        "Incorrect Answer 3": "wrong 3",
        "Record ID": "rec1",
        "High-level domain": "Chemistry",
        "Subdomain": "Inks",
    },
    "agieval": {
        "passage": "A tale of two towns.",
        "question": "How many towns?",
        "options": ["(A)1", "(B) 2", "(C)3"],
        "label": "B",
        "answer": None,
        "other": None,
    },
    "supergpqa": {
        "uuid": "u1",
        "question": "Which unit has force?",
        "options": ["newton", "joule"],
        "answer": "newton",
        "answer_letter": "A",
        "discipline": "Science",
        "field": "Physics",
        "difficulty": "easy",
    },
    "math500": {
        "problem": "What is $1+1$?",
        "solution": "It is 2.",
        "answer": "2",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/1",
    },
    "amc23": {"id": 3, "question": "What is $3^3$?", "answer": 27.0, "url": "https://example.org"},
}


def parse(name, **change):
    return BENCHMARKS[name].parse({**ROWS[name], **change})


def write(path, *rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_facts():
    assert list(BENCHMARKS) == list(ROWS)
    rows = {name: benchmark.expected_rows for name, benchmark in BENCHMARKS.items()}
    assert rows == {
        "mmlu_test": 14_042,
        "mmlu_pro": 12_032,
        "gpqa_diamond": 198,
        "agieval": 8_269,
        "supergpqa": 26_529,
        "math500": 500,
        "amc23": 40,
    }
    assert [name for name, benchmark in BENCHMARKS.items() if benchmark.private] == ["gpqa_diamond"]
    assert all(benchmark.paper_rows == 0 for benchmark in BENCHMARKS.values()), "nobody trains on them"
    assert [name for name, benchmark in BENCHMARKS.items() if benchmark.gated] == ["gpqa_diamond"]
    assert [name for name, benchmark in BENCHMARKS.items() if not benchmark.files] == ["agieval"]
    for benchmark in BENCHMARKS.values():
        assert re.fullmatch("[0-9a-f]{40}", benchmark.revision)
        facts = benchmark.describe()
        assert json.loads(json.dumps(facts)) == facts and facts["expected_rows"] == benchmark.expected_rows
    assert sum(TASKS.values()) == BENCHMARKS["agieval"].expected_rows


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("mmlu_test", {"subject": "zoology"}),
        ("mmlu_pro", {"category": "biology"}),
        ("gpqa_diamond", {"domain": "Chemistry", "subject": "Inks"}),
        ("supergpqa", {"discipline": "Science", "difficulty": "easy"}),
        ("math500", {"subject": "Algebra", "level": "1"}),
        ("amc23", {}),
    ],
)
def test_categories_of_a_question(name, groups):
    assert BENCHMARKS[name].groups(parse(name)) == groups
    bare = {key: value for key, value in ROWS[name].items() if key in BENCHMARKS[name].schema}
    assert BENCHMARKS[name].groups(BENCHMARKS[name].parse(bare)) == {}


@pytest.mark.parametrize(
    ("file", "task"),
    [
        ("agieval_lsat_ar.jsonl", "lsat-ar"),
        ("lsat-ar.jsonl", "lsat-ar"),
        ("sat_en_without_passage.jsonl.gz", "sat-en-without-passage"),
        ("AGIEval_JEC-QA-kd.parquet", "jec-qa-kd"),
        ("agieval_math.jsonl", "math"),
        ("agieval.jsonl", None),
        ("agieval_lsat.jsonl", None),
        ("math500.jsonl", None),
    ],
)
def test_the_task_of_agieval_is_the_name_of_the_file(file, task, tmp_path):
    assert task_of(file) == task
    (question,) = BENCHMARKS["agieval"].read(write(tmp_path / "lsat-ar.jsonl", ROWS["agieval"]))
    assert BENCHMARKS["agieval"].groups(question) == {"task": "lsat-ar"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_hand_made_rows_read(name, tmp_path):
    path = write(tmp_path / f"{name}.jsonl", ROWS[name])
    (question,) = BENCHMARKS[name].read(path)
    assert isinstance(question, Question)
    assert (question.source, question.file, question.row) == (name, path.name, 1)
    assert question.question and (question.answers or question.option_text(question.gold_label) == question.gold_text)


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, benchmark in BENCHMARKS.items() for field in benchmark.schema]
)
def test_a_missing_field_is_named(name, field, tmp_path):
    row = {key: value for key, value in ROWS[name].items() if key != field}
    with pytest.raises(UserError, match=rf"line 1: no field '{field}', which benchmark {name} needs"):
        list(BENCHMARKS[name].read(write(tmp_path / "rows.jsonl", row)))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("mmlu_test", {"answer": 4}, "answer is 4, expected a whole number from 0 to 3"),
        ("mmlu_test", {"answer": True}, "answer is True"),
        ("mmlu_test", {"choices": "abcd"}, "choices is 'abcd', expected a list of texts"),
        ("mmlu_test", {"choices": ["a"]}, "choices has 1 options, expected 2 to 26"),
        ("mmlu_pro", {"answer": "D"}, "answer is 'D', expected a letter from A to C"),
        ("mmlu_pro", {"answer": ["A"]}, "answer is"),
        ("mmlu_pro", {"options": ["N/A", "N/A"]}, "options are N/A throughout"),
        ("supergpqa", {"answer_letter": None}, "answer_letter is None"),
        ("supergpqa", {"answer": 4}, "answer is 4, expected text"),
        ("gpqa_diamond", {"Incorrect Answer 2": None}, "Incorrect Answer 2 is None, expected text"),
        ("agieval", {"label": "AB"}, "label is 'AB', expected a letter"),
        ("agieval", {"label": 1}, "label is 1"),
        ("agieval", {"options": [1, 2]}, "options is"),
        ("amc23", {"answer": "twenty"}, "answer is 'twenty', expected a number"),
        ("amc23", {"answer": None}, "answer is None"),
        ("amc23", {"answer": True}, "answer is True"),
        ("math500", {"answer": 2}, "answer is 2, expected text"),
    ],
)
def test_a_wrong_value_is_named(name, change, says, tmp_path):
    with pytest.raises(UserError, match=f"line 1: {says}"):
        list(BENCHMARKS[name].read(write(tmp_path / "rows.jsonl", {**ROWS[name], **change})))


def test_choices_are_lettered_and_the_filler_of_mmlu_pro_goes():
    question = parse("mmlu_test")
    assert (question.options[3], question.gold_label, question.gold_text) == (("D", "2"), "C", "8")
    question = parse("mmlu_pro")
    assert question.options == (("A", "oxygen"), ("B", "carbon dioxide"), ("C", "neon"))
    assert (question.gold_label, question.gold_text, question.meta["id"]) == ("B", "carbon dioxide", 7)


@pytest.mark.parametrize(
    ("answer", "text"), [(27.0, "27"), (27, "27"), ("27.0", "27"), (" 27 ", "27"), (-3.0, "-3"), (2.5, "2.5"), (0, "0")]
)
def test_amc23_answers_are_whole_numbers_in_text(answer, text):
    assert parse("amc23", answer=answer).answers == (text,)


def test_gpqa_options_keep_their_order_and_its_seed():
    question, again = parse("gpqa_diamond"), parse("gpqa_diamond", Subdomain="x")
    assert question.options == again.options and sorted(text for _, text in question.options)[0] == "right"
    assert question.option_text(question.gold_label) == question.gold_text == "right"
    order = question.meta["permutation"]
    assert sorted(order) == [0, 1, 2, 3] and order.index(0) == "ABCD".index(question.gold_label)
    labels = {parse("gpqa_diamond", Question=f"What turns {colour}?").gold_label for colour in range(40)}
    assert labels == set("ABCD"), "the right answer stands everywhere"


def test_agieval_joins_the_passage_and_reads_labels():
    question = parse("agieval")
    assert question.question == "A tale of two towns.\nHow many towns?"
    assert question.meta["passage"] == "A tale of two towns."
    assert question.options == (("A", "1"), ("B", "2"), ("C", "3"))
    assert (question.kind, question.gold_label, question.gold_text) == ("mcq", "B", "2")
    several = parse("agieval", label=["A", "C"], passage=None)
    assert (several.question, several.gold_label, several.gold_text) == ("How many towns?", "A,C", None)
    assert "passage" not in several.meta
    assert parse("agieval", label=None).gold_label is None


def test_agieval_reads_open_rows_and_rows_without_answer():
    cloze = parse("agieval", options=None, label=None, answer=r"\frac{1}{2}", passage=None)
    assert (cloze.kind, cloze.options, cloze.answers) == ("math", None, (r"\frac{1}{2}",))
    sat = {key: value for key, value in ROWS["agieval"].items() if key != "answer"}
    assert BENCHMARKS["agieval"].parse(sat) == parse("agieval")


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (["(A)x", "(B) y"], ["x", "y"]),
        (["A. x", "(B)y"], ["x", "y"]),
        (["A? x", "B? y"], ["x", "y"]),
        (["A first", "B second"], ["first", "second"]),
        (["A man", "(B)the dog", "(C)C major"], ["man", "the dog", "C major"]),
        (["A man", "the dog"], ["A man", "the dog"]),
        (["(B)x", "(A)y"], ["(B)x", "(A)y"]),
    ],
)
def test_agieval_option_marks(options, texts):
    assert [text for _, text in unmarked(tuple(zip("ABC", options, strict=False)))] == texts


def test_benchmarks_are_found_by_name(tmp_path):
    for name in ("agieval_lsat_ar.jsonl", "agieval_math.jsonl", "mmlu_pro_test_sample.jsonl.gz", "mmlu_test.parquet"):
        (tmp_path / name).touch()
    for name in ("mmlu_dev.jsonl", "mmlu.jsonl", "agieval.txt", "math500x.jsonl", "supergpqa.jsonl.part", "README.md"):
        (tmp_path / name).touch()
    (tmp_path / "gpqa_diamond").mkdir()
    (tmp_path / "amc23_old").mkdir()
    found = {name: [path.name for path in paths] for name, paths in find_benchmarks(tmp_path).items()}
    assert found == {
        "mmlu_test": ["mmlu_test.parquet"],
        "mmlu_pro": ["mmlu_pro_test_sample.jsonl.gz"],
        "gpqa_diamond": ["gpqa_diamond"],
        "agieval": ["agieval_lsat_ar.jsonl", "agieval_math.jsonl"],
        "supergpqa": [],
        "math500": [],
        "amc23": ["amc23_old"],
    }


def test_a_folder_without_benchmarks_is_refused(tmp_path):
    (tmp_path / "other.jsonl").touch()
    with pytest.raises(ConfigError, match=r"decontaminate\.path=.* has none of the benchmarks mmlu_test, .*amc23"):
        find_benchmarks(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        find_benchmarks(tmp_path / "absent")


def test_items_name_file_and_row_and_leave_out_empty_questions(tmp_path):
    write(tmp_path / "amc23.jsonl", ROWS["amc23"], {**ROWS["amc23"], "question": " "}, ROWS["amc23"])
    write(tmp_path / "agieval" / "sat.jsonl", ROWS["agieval"])
    items = list(read_items(find_benchmarks(tmp_path)))
    assert [item[:2] for item in items] == [
        ("agieval", "sat.jsonl:1"),
        ("amc23", "amc23.jsonl:1"),
        ("amc23", "amc23.jsonl:3"),
    ]


def test_real_rows_read(shared_data):
    found = find_benchmarks(shared_data)
    assert [name for name, paths in found.items() if not paths] == ["gpqa_diamond"]
    counts = dict.fromkeys(found, 0)
    for name, paths in found.items():
        for path in paths:
            for question in BENCHMARKS[name].read(path):
                assert not isinstance(question, Drop)
                counts[name] += 1
                if question.options:
                    assert question.option_text(question.gold_label) == question.gold_text
                    assert all(text and text == text.strip() for _, text in question.options)
                else:
                    assert question.answers
    assert counts == {
        "mmlu_test": 1003,
        "mmlu_pro": 711,
        "gpqa_diamond": 0,
        "agieval": 1914,
        "supergpqa": 566,
        "math500": 244,
        "amc23": 18,
    }
