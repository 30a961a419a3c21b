"""Records are read as they were written, whatever answers hold and wherever a kill cut."""

import json

import pytest

from recipes.run_files import read_lines, rollout_file, tail


def test_lines_come_back(tmp_path):
    path = tmp_path / "samples.jsonl"
    assert read_lines(path) == []
    rows = [{"response": text} for text in ("plain", "a\u2028b\x85c\x0bd\x1ee", "two\nlines\r", "ö")]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert read_lines(path) == rows


@pytest.mark.parametrize("cut", [1, 3, 12])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2222}\n'[:-cut])
    assert read_lines(path) == [{"step": 1}]


def test_the_file_of_a_step(tmp_path):
    assert rollout_file(tmp_path, 7) == tmp_path / "rollouts" / "step_000007.jsonl"


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "run.log"
    assert tail(log) == "(it said nothing)"
    log.write_text("\n \n", "utf-8")
    assert tail(log) == "(it said nothing)"
    log.write_text("".join(f"line {n}\n" for n in range(20)) + "\n", "utf-8")
    assert tail(log) == "\n".join(f"line {n}" for n in range(5, 20)) and tail(log, lines=1) == "line 19"
