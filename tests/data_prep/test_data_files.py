import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossthink.errors import UserError
from data_prep import files
from data_prep.files import data_files, read_blocks, read_rows, rows_of

ROWS = [{"n": n, "t": f"line {n} \u2028 still one line"} for n in range(1, 6)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def test_every_format_gives_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        assert list(read_rows(tmp_path / name)) == [(tmp_path / name, row["n"], row) for row in ROWS]
    assert [row for _, _, row in read_rows(tmp_path)] == ROWS * 3


def test_folders_are_read_sorted_and_hidden_files_passed_over(tmp_path):
    for name in ("train/10.jsonl", "train/02.jsonl", "a.jsonl", ".cache/x.jsonl", "train/.y.jsonl", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    assert [str(f.relative_to(tmp_path)) for f in data_files(tmp_path)] == [
        "a.jsonl",
        "train/02.jsonl",
        "train/10.jsonl",
    ]


def test_empty_lines_count_but_are_no_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}')
    assert [(number, row["a"]) for _, number, row in read_rows(tmp_path / "a.jsonl")] == [(1, 1), (4, 2)]


LINE = st.one_of(
    st.sampled_from([b"", b"  ", b"\r", b"broken", b"[1]"]),
    st.builds(lambda n, pad: b'{"n": %d, "pad": "%s"}' % (n, b"x" * pad), st.integers(0, 999), st.integers(0, 60)),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(LINE, max_size=25),
    ending=st.sampled_from([b"", b"\n"]),
    block=st.integers(1, 200),
    limit=st.none() | st.integers(1, 30),
    zipped=st.booleans(),
)
def test_blocks_hold_every_line_once_however_they_are_cut(tmp_path, monkeypatch, lines, ending, block, limit, zipped):
    file = tmp_path / ("a.jsonl.gz" if zipped else "a.jsonl")
    content = b"\n".join(lines) + (ending if lines else b"")
    file.write_bytes(gzip.compress(content) if zipped else content)
    monkeypatch.setattr(files, "BLOCK_BYTES", block)
    blocks = list(read_blocks([file], limit))
    found = [pair for one in blocks for pair in rows_of(one)]
    expected = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()][:limit]
    assert [number for number, _ in found] == [number for number, _ in expected]
    assert sum(map(len, blocks)) == len(expected)
    for (number, row), (_, line) in zip(found, expected, strict=True):
        if line.startswith(b"{"):
            assert row == json.loads(line)
        else:
            assert isinstance(row, UserError) and f"line {number}:" in str(row)


def test_a_limit_counts_over_all_files_and_may_end_inside_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_ROWS", 2)
    for name, first in (("a", 0), ("b", 5)):
        pq.write_table(pa.table({"n": list(range(first, first + 5))}), tmp_path / f"{name}.parquet")
    for limit in (1, 4, 5, 8, 99):
        rows = [row["n"] for block in read_blocks(data_files(tmp_path), limit) for _, row in rows_of(block)]
        assert rows == list(range(10))[:limit]


def test_columns_that_nobody_needs_are_not_read(tmp_path):
    pq.write_table(pa.table({"question": ["q"], "responses": [["long"]]}), tmp_path / "a.parquet")
    (block,) = read_blocks([tmp_path / "a.parquet"], unread=("responses", "absent"))
    assert list(rows_of(block)) == [(1, {"question": "q"})]


def test_files_are_read_as_they_are_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\nbroken')
    rows = read_rows(tmp_path / "a.jsonl")
    assert next(rows)[2] == {"a": 1}
    with pytest.raises(UserError):
        next(rows)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: not a line of JSON"),
        (b'{"a": 1}\n\xff\xfe\n', "line 2: not a line of JSON"),
        (b'{"a": "\xff"}\n', "line 1: not a line of JSON"),
        (b"[1]\n", "line 1: expected a JSON object, found list"),
        (b"[" * 100_000, "line 1: not a line of JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}\n", "line 1: not a line of JSON"),
    ],
)
def test_a_line_that_does_not_parse_is_named(tmp_path, content, says):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="bad.jsonl, " + says):
        list(read_rows(tmp_path / "bad.jsonl"))


def test_json_that_only_some_parsers_take_is_taken(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "\\ud800", "b": NaN, "c": 123456789012345678901234567890}\n')
    ((_, _, row),) = read_rows(tmp_path / "a.jsonl")
    assert row["a"] == "\ud800" and row["b"] != row["b"] and row["c"] == pytest.approx(1.2345678901234568e29)


def test_an_endless_line_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 100)
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + "x" * 2000)
    with pytest.raises(UserError, match="a.jsonl, line 2: longer than 0 MiB"):
        list(read_rows(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("cut", [5, 20, -10, -3])
def test_cut_off_gzip_is_named(tmp_path, cut):
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(LINES.encode())[:cut])
    with pytest.raises(UserError, match=r"bad.jsonl.gz, after line \d: damaged or cut-off gzip"):
        list(read_rows(tmp_path / "bad.jsonl.gz"))


def test_damaged_gzip_and_parquet_are_named(tmp_path):
    (tmp_path / "bad.jsonl.gz").write_bytes(LINES.encode())
    with pytest.raises(UserError, match="after line 0: damaged or cut-off gzip"):
        list(read_rows(tmp_path / "bad.jsonl.gz"))
    for content in (b"", b"PAR1 nothing of the kind"):
        (tmp_path / "bad.parquet").write_bytes(content)
        with pytest.raises(UserError, match="bad.parquet, after row 0: damaged Parquet"):
            list(read_rows(tmp_path / "bad.parquet"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_half_written_parquet_is_named(tmp_path, share):
    pq.write_table(pa.table({"n": list(range(50_000))}), tmp_path / "bad.parquet")
    whole = (tmp_path / "bad.parquet").read_bytes()
    (tmp_path / "bad.parquet").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="bad.parquet, after row 0: damaged Parquet"):
        list(read_rows(tmp_path / "bad.parquet"))


def test_parquet_damaged_in_the_middle_says_how_far_it_was_read(tmp_path):
    table = pa.table({"n": [f"{n:032}" for n in range(3 * files.BLOCK_ROWS)]})
    pq.write_table(table, tmp_path / "bad.parquet", row_group_size=files.BLOCK_ROWS, use_dictionary=False)
    data = pq.ParquetFile(tmp_path / "bad.parquet").metadata.row_group(1).column(0)
    content = bytearray((tmp_path / "bad.parquet").read_bytes())
    start, size = data.data_page_offset, data.total_compressed_size
    content[start : start + size] = b"\xff" * size
    (tmp_path / "bad.parquet").write_bytes(content)
    blocks = read_blocks([tmp_path / "bad.parquet"])
    assert next(blocks).first == 1
    with pytest.raises(UserError, match=f"bad.parquet, after row {files.BLOCK_ROWS}: damaged Parquet"):
        list(blocks)


def test_parquet_text_that_is_not_utf8_is_a_bad_row_of_its_own(tmp_path):
    offsets, data = pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0\6\0\0\0"), pa.py_buffer(b"ok\xff\xfeok")
    pq.write_table(pa.table({"a": pa.StringArray.from_buffers(3, offsets, data)}), tmp_path / "a.parquet")
    (block,) = read_blocks([tmp_path / "a.parquet"])
    (_, first), (number, bad), (_, last) = rows_of(block)
    assert first == last == {"a": "ok"}
    assert number == 2 and "a.parquet, row 2: text that is not UTF-8" in str(bad)
    with pytest.raises(UserError, match="row 2"):
        list(read_rows(tmp_path / "a.parquet"))


def test_missing_foreign_and_empty_paths_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl does not exist. Give a file or a folder"):
        list(read_rows(tmp_path / "none.jsonl"))
    (tmp_path / "rows.csv").write_text("a")
    with pytest.raises(
        UserError, match=r"rows.csv is not a data file by its name. Allowed: .jsonl, .jsonl.gz, .parquet."
    ):
        list(read_rows(tmp_path / "rows.csv"))
    with pytest.raises(UserError, match="is a folder without data files"):
        list(read_rows(tmp_path))


def test_a_file_whose_name_no_manifest_can_hold_is_refused(tmp_path):
    name = os.fsdecode(b"rows\xff.jsonl")
    (tmp_path / name).write_text("{}\n")
    with pytest.raises(UserError, match="has a name that is not UTF-8"):
        data_files(tmp_path)
