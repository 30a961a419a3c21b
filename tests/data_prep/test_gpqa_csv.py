"""GPQA as the hub has it: CSV."""

import csv
import dataclasses

import pytest
from conftest import write_jsonl

from crossthink.errors import UserError
from data_prep.benchmarks import BENCHMARKS, find_benchmarks

GPQA = BENCHMARKS["gpqa_diamond"]
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
    found = find_benchmarks(tmp_path, suffixes=(".csv",))
    assert found["gpqa_diamond"] == [path.parent]


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
