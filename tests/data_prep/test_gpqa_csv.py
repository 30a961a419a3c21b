"""GPQA as the hub has it: CSV."""

import csv
import dataclasses
import hashlib

import pytest
from prep_helpers import dropped, mmlu_rows, prepare
from raw_rows import write_jsonl

from conf.prep import DecontaminateConfig
from crossthink.errors import UserError
from data_prep.benchmarks import BENCHMARKS, find_benchmarks

GPQA = BENCHMARKS["gpqa_diamond"]
ANSWERS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
ROW = {
    "Question": "What turns blue?",
    "Correct Answer": "right",
    "Incorrect Answer 1": "wrong 1",
    "Incorrect Answer 2": "wrong 2",
    "Incorrect Answer 3": "wrong 3",
    "Record ID": "rec1",
    "Subdomain": "Inks",
}


def write_csv(path, *rows):
    with path.open("w", encoding="utf-8-sig", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_gpqa_is_read_from_csv_as_from_json(tmp_path):
    rows = [ROW, {**ROW, "Question": 'Two lines,\n"quoted", π?', "Subdomain": ""}]
    (tmp_path / "gpqa_diamond").mkdir()
    path = write_csv(tmp_path / "gpqa_diamond" / "gpqa_diamond.csv", *rows)
    expected = list(GPQA.read(write_jsonl(tmp_path / "gpqa.jsonl", rows)))
    for given in (path, path.parent, [path]):
        found = list(GPQA.read(given))
        assert [dataclasses.replace(one, file="gpqa.jsonl") for one in found] == expected
        assert {one.file for one in found} == {"gpqa_diamond.csv"}
    assert list(GPQA.read([path, path], limit=3)) == [*found, found[0]]
    assert GPQA.local_files(path.parent) == GPQA.local_files(path) == [path]
    assert find_benchmarks(tmp_path)["gpqa_diamond"] == [path.parent]
    plain = write_csv(tmp_path / "gpqa_diamond.csv", *rows)
    (tmp_path / "mmlu_test.csv").write_text("only GPQA is CSV")
    found = find_benchmarks(tmp_path)
    assert found["gpqa_diamond"] == [path.parent, plain] and not found["mmlu_test"]


def test_damaged_csv_is_named(tmp_path):
    row = {key: value for key, value in ROW.items() if key != "Question"}
    with pytest.raises(UserError, match=r"gpqa\.csv, line 1: no field 'Question'"):
        list(GPQA.read(write_csv(tmp_path / "gpqa.csv", row)))
    path = write_csv(tmp_path / "gpqa.csv", ROW)
    path.write_bytes(path.read_bytes() + b'"unclosed')
    with pytest.raises(UserError, match=r"gpqa\.csv, after line 2: damaged CSV data"):
        list(GPQA.read(path))
    path.write_bytes(path.read_bytes() + b"\xff")
    with pytest.raises(UserError, match="damaged CSV data"):
        list(GPQA.read(path))


def test_prep_keeps_a_question_of_the_csv_out_of_the_pool(tmp_path):
    rows = mmlu_rows(2)
    asked = {**ROW, "Question": rows[1]["question"], **dict(zip(ANSWERS, rows[1]["choices"], strict=True))}
    (tmp_path / "benchmarks").mkdir()
    path = write_csv(tmp_path / "benchmarks" / "gpqa_diamond.csv", ROW, asked)
    paths = {"mmlu_train": write_jsonl(tmp_path / "mmlu.jsonl", rows)}
    pool = prepare(tmp_path / "pool", paths, decontaminate=DecontaminateConfig(path=str(path.parent)))
    assert dropped(pool, "mmlu_train") == {("decontaminate", "in_gpqa_diamond"): 1}
    (file,) = pool.manifest["decontamination"]["benchmarks"]["gpqa_diamond"]["files"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() in file.values()
