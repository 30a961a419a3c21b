"""Comparing evaluations: paired by question, refused where it would say nothing; folders that cannot be read."""

import json
import re

import pytest
from eval_samples import sample, write_evaluation

from crossthink.errors import ConfigError, UserError
from recipes.evaluation.compare import compare
from recipes.evaluation.folder import is_evaluation, read_evaluation
from recipes.evaluation.intervals import bootstrap_interval


def answers(rights, benchmark="mmlu_test", runs=2):
    return [sample(n, right, benchmark, run) for n, right in enumerate(rights) for run in range(runs)]


def test_pairs_of_questions(tmp_path):
    one = answers([0, 0, 1, 1, None, 1]) + answers([0, 1], "amc23")
    other = answers([1, 0, 1, 1, 1, None]) + answers([1, 1], "amc23")
    found = compare(write_evaluation(tmp_path / "one", one), write_evaluation(tmp_path / "other", other))
    mmlu = found.benchmarks["mmlu_test"]
    assert (mmlu.questions, mmlu.one, mmlu.other, mmlu.value) == (4, 0.5, 0.75, 0.25)
    assert mmlu.interval == bootstrap_interval([1, 0, 0, 0])
    assert found.left_out == 2 and found.overall.questions == 6
    assert found.average.value == pytest.approx((0.25 + 0.5) / 2)
    assert not mmlu.apart and list(found.benchmarks) == ["mmlu_test", "amc23"]


def test_paired_is_sharper_than_two_intervals_side_by_side(tmp_path):
    rights = [n % 2 for n in range(400)]
    one = write_evaluation(tmp_path / "one", answers(rights, runs=1))
    better = write_evaluation(tmp_path / "better", answers([1 if n < 20 else r for n, r in enumerate(rights)], runs=1))
    found = compare(one, better).overall
    assert found.value == pytest.approx(10 / 400) and found.apart
    intervals = [read_evaluation(folder).summary["accuracy_interval"] for folder in (one, better)]
    assert intervals[0][1] > intervals[1][0]


def test_the_same_twice_is_no_difference(tmp_path):
    one, other = (write_evaluation(tmp_path / name, answers([0, 1, 1])) for name in ("one", "other"))
    found = compare(one, other)
    assert found.overall.value == 0 and found.overall.interval == (0, 0) and found.left_out == 0


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"questions": "other"}, rf"other questions \(SHA-256\): {'q' * 64} and other"),
        ({"rules_hash": "ba98"}, r"other reward rules \(hash\): 0123456789ab and ba98"),
        ({"protocol": {"runs": 1, "temperature": 0.0}}, r"another protocol, runs: {'runs': 3} and {'runs': 1}"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, identity, words):
    one = write_evaluation(tmp_path / "one", answers([0, 1]))
    other = write_evaluation(tmp_path / "other", answers([0, 1]), identity)
    with pytest.raises(UserError, match=words):
        compare(one, other)


def test_no_question_judged_in_both(tmp_path):
    one = write_evaluation(tmp_path / "one", answers([0, None]))
    other = write_evaluation(tmp_path / "other", answers([None, 1]))
    with pytest.raises(UserError, match="no question has a valid verdict in both"):
        compare(one, other)


def test_a_folder_that_is_no_evaluation(tmp_path):
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        read_evaluation(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is not an evaluation: it has no summary.json"):
        read_evaluation(tmp_path)
    (tmp_path / "answers.jsonl").touch()
    with pytest.raises(UserError, match="is not finished: .* resume=true"):
        read_evaluation(tmp_path)
    assert not is_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("summary.json", "{", "summary.json cannot be read as JSON"),
        ("summary.json", "[]", "summary.json does not hold what .* it is no JSON object"),
        ("summary.json", '{"questions": 3}', "summary.json does not hold what .* it has no 'benchmarks'"),
        ("summary.json", '{"questions": 3, "benchmarks": 3}', "summary.json does not hold what .* no 'benchmarks'"),
        ("identity.json", None, "identity.json cannot be read: No such file"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, name, text, words):
    folder = write_evaluation(tmp_path / "one", answers([0, 1]))
    assert is_evaluation(folder)
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_evaluation(folder)


@pytest.mark.parametrize(
    "place",
    [("runs",), ("tokens", "right", "mean"), ("average", "missing"), ("benchmarks", "mmlu_test", "judged"),
     ("benchmarks", "mmlu_test", "groups", "category", "law", "accuracy")],
)  # fmt: skip
def test_a_summary_that_lacks_what_a_report_reads(tmp_path, place):
    folder = write_evaluation(tmp_path / "one", [sample(1, groups={"category": "law"})])
    path = folder / "summary.json"
    part = summary = json.loads(path.read_text())
    for name in place[:-1]:
        part = part[name]
    del part[place[-1]]
    path.write_text(json.dumps(summary))
    said = f"summary.json does not hold what `crossthink eval` writes there: it has no '{'.'.join(place)}'."
    with pytest.raises(UserError, match=re.escape(said)):
        read_evaluation(folder)


@pytest.mark.parametrize("key", ["reward", "accuracy", "format", "status"])
def test_a_verdict_that_lacks_something_is_named(tmp_path, key):
    folder = write_evaluation(tmp_path / "one", answers([0, 1], runs=1))
    path = folder / "samples.jsonl"
    one = sample(2)
    del one["verdict"][key]
    path.write_text(path.read_text() + json.dumps(one) + "\n" + json.dumps(sample(3) | {"verdict": None}) + "\n")
    said = f"{path}, line 3, is no judged answer of `crossthink eval`: it has no 'verdict.{key}'."
    with pytest.raises(UserError, match=re.escape(said)):
        list(read_evaluation(folder).samples())


@pytest.mark.parametrize("line", [b"{", b"[]", b"\xff\xfe", json.dumps({"benchmark": "x"}).encode(),
                                  json.dumps(sample(1) | {"verdict": "right"}).encode()])  # fmt: skip
def test_a_line_that_is_no_sample_is_named(tmp_path, line):
    folder = write_evaluation(tmp_path / "one", answers([0, 1], runs=1))
    path = folder / "samples.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=re.escape(f"{path}, line 3,")):
        list(read_evaluation(folder).samples())
    path.unlink()
    with pytest.raises(UserError, match="samples.jsonl cannot be read: No such file"):
        list(read_evaluation(folder).samples())


def test_texts_with_every_kind_of_line_end_stay_whole(tmp_path):
    text = "a\u2028b\u2029c\x85d\x0be\u202e"
    folder = write_evaluation(tmp_path / "one", [sample(1, response=text)])
    assert [one["response"] for one in read_evaluation(folder).samples()] == [text]
