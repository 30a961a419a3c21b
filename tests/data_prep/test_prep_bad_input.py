"""Bad input ends in an error that names it or in a counted drop; never in half a pool or a silently empty one."""

import gzip
import json
import os
import subprocess
import sys
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prep_helpers import REPO, check_sums, command, config, dropped, math_rows, mmlu_rows, reasons, run_command, shown

from conf.prep import DecontaminateConfig, FilterConfig, SourceConfig
from crossthink.errors import UserError
from crossthink.procs import free_port
from data_prep import prep
from data_prep.pool import Pool
from data_prep.staging import staging_folder


def lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def fails(tmp_path, paths, says, **fields):
    """The run fails, says why, and leaves nothing behind."""
    chosen = config(tmp_path / "out" / "pool", paths, **fields)
    with pytest.raises(UserError, match=says):
        prep.run(chosen)
    assert not list((tmp_path / "out").iterdir())


def whole(tmp_path, paths, **fields):
    prep.run(config(tmp_path / "out" / "pool", paths, **fields))
    pool = Pool.open(tmp_path / "out" / "pool")
    check_sums(pool)
    return pool


@pytest.mark.parametrize("bad_rows", ["stop", "drop"])
def test_damaged_files_stop_the_run_whatever_bad_rows_says(tmp_path, bad_rows):
    content = gzip.compress(lines(math_rows(2000)))
    (tmp_path / "cut.jsonl.gz").write_bytes(content[:-100])
    says = r"cut.jsonl.gz, after line \d+: damaged or cut-off gzip data"
    fails(tmp_path, {"math": tmp_path / "cut.jsonl.gz"}, says, bad_rows=bad_rows)
    pq.write_table(pa.Table.from_pylist(math_rows(2000)), tmp_path / "whole.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:-100])
    says = "cut.parquet, after row 0: damaged Parquet data"
    fails(tmp_path, {"math": tmp_path / "cut.parquet"}, says, bad_rows=bad_rows)


BAD_ROWS = [
    ("math", b'{"problem": "1+1?", "level"', "not a line of JSON"),
    ("math", b"[1, 2]", "expected a JSON object, found list"),
    ("math", b'{"problem": "\xff"}', "not a line of JSON"),
    ("math", {"level": 9}, "level is 9, expected 1 to 5"),
    ("math", {"solution": 4}, "solution is 4, expected text"),
    ("math", {"problem": None}, "problem is None, expected text"),
    ("mmlu_train", {"answer": "B"}, "answer is 'B', expected a whole number from 0 to 3"),
    ("mmlu_train", {"answer": True}, "answer is True"),
    ("mmlu_train", {"choices": ["a", "b", "c"]}, "expected a list of 4 texts"),
    ("mmlu_train", {"choices": "abcd"}, "choices is 'abcd'"),
    ("syn_qa", {"reward_model": {"ground_truth": 3}}, "reward_model.ground_truth is 3, expected text"),
    ("syn_qa", {"meta_data": []}, "no field 'meta_data.question', which source syn_qa needs. The row has data_source"),
    ("personaskill_math", {"reward_model": None}, "no field 'reward_model.ground_truth'"),
    ("natural_reasoning", {"reference_answer": {"a": 1}}, "reference_answer is {'a': 1}, expected text"),
    ("numina_math", {"answer": 2}, "answer is 2, expected text"),
]


@pytest.mark.parametrize(("source", "change", "says"), BAD_ROWS)
def test_a_bad_row_stops_the_run_or_is_counted(tmp_path, raw_rows, source, change, says):
    good = math_rows(1)[0] if source == "math" else raw_rows[source][0]
    bad = change + b"\n" if isinstance(change, bytes) else lines([good | change])
    file = tmp_path / f"{source}.jsonl"
    file.write_bytes(lines([good]) + b"\n" + bad + lines([good]))
    with pytest.raises(UserError) as failure:
        prep.run(config(tmp_path / "pool", {source: file}))
    text = str(failure.value)
    assert f"{source}.jsonl, line 3: " in text and says in text and "bad_rows=drop counts such rows" in text
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    pool = whole(tmp_path, {source: file}, bad_rows="drop")
    assert dropped(pool, source) == {("parse", "bad_row"): 1, ("duplicates", "duplicate"): 1}
    (row,) = [row for row in shown(pool) if row["reason"] == "bad_row"]
    assert (row["source"], row["file"], row["row"]) == (source, f"{source}.jsonl", 3) and row["raw"]


def test_a_changed_schema_names_the_missing_field_and_those_found(tmp_path):
    renamed = [{"query": row["problem"], "level": row["level"], "solution": row["solution"]} for row in math_rows(3)]
    (tmp_path / "math.jsonl").write_bytes(lines(renamed))
    says = "math.jsonl, line 1: no field 'problem', which source math needs. The row has query, level, solution; needed"
    fails(tmp_path, {"math": tmp_path / "math.jsonl"}, says)
    # Counting them instead must not end in a pool without rows.
    says = r"Source math: none of the 3 rows .* the last went in step parse. Dropped: bad_row \(3\). No pool was"
    fails(tmp_path, {"math": tmp_path / "math.jsonl"}, says, bad_rows="drop")


def test_parquet_of_other_types_is_named(tmp_path):
    columns = {"problem": [1], "level": [3], "type": ["Algebra"], "solution": [r"\boxed{2}"]}
    pq.write_table(pa.table(columns), tmp_path / "math.parquet")
    fails(tmp_path, {"math": tmp_path / "math.parquet"}, "math.parquet, line 1: problem is 1, expected text")


def test_nul_bytes_and_lone_surrogates_are_counted(tmp_path, raw_rows):
    good, mmlu = math_rows(1)[0], raw_rows["mmlu_train"][0]
    rows = [
        good,
        *(good | {"problem": f"What is {bad}?"} for bad in ("\0", "\ud800", "\udfff\ud800")),
        good | {"problem": "Gold?", "answer": "2\0"},
        good | {"problem": "Type?", "type": "\udc00"},
    ]
    options = [mmlu, mmlu | {"choices": ["a", "b\0", "c", "d"]}, mmlu | {"choices": ["a", "\ud900", "c", "d"]}]
    paths = {"math": tmp_path / "math.jsonl", "mmlu_train": tmp_path / "mmlu.jsonl"}
    paths["math"].write_bytes(lines(rows))
    paths["mmlu_train"].write_bytes(lines(options))
    pool = whole(tmp_path, paths)
    assert reasons(pool, "math") == {"bad_characters": 5} and reasons(pool, "mmlu_train") == {"bad_characters": 2}
    kept = [row for row in shown(pool) if row["source"] == "math"]
    assert [row["row"] for row in kept] == [2, 3, 4, 5, 6] and "ud800" in kept[1]["question"]
    # A character that takes two halves in JSON is one character, and clean.
    paths["math"].write_bytes(b'{"problem": "\\ud83d\\ude00?", "level": 5, "type": "", "answer": "1"}\n')
    prep.run(config(tmp_path / "clean", {"math": paths["math"]}))
    assert Pool.open(tmp_path / "clean").row("math", 0).question == "\U0001f600?"


@pytest.mark.parametrize("content", [b"", b"\n  \n\n"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_an_empty_source_is_named(tmp_path, suffix, content):
    file = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"problem": pa.array([], pa.string())}), file)
    else:
        file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    fails(tmp_path, {"math": file}, f"Source math: .*rows{suffix} has no rows")


def test_a_folder_without_data_is_named(tmp_path):
    (tmp_path / "raw").mkdir()
    fails(tmp_path, {"math": tmp_path / "raw"}, "raw is a folder without data files")


def test_a_source_that_loses_all_its_rows_in_one_step_names_it(tmp_path, raw_file, raw_rows):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "mmlu_test.jsonl").write_bytes(lines(raw_rows["mmlu_train"]))
    numina = raw_rows["numina_math"][0]
    stem = raw_rows["mmlu_train"][0] | {"question": "Which of the following is it?"}
    for step, reason, source, rows, fields in (
        ("parse", "answer_proof", "numina_math", [numina | {"answer": "proof"}], {}),
        ("filter", "answer_missing", "math", [row | {"solution": "no box"} for row in math_rows(3)], {}),
        ("filter", "level_not_wanted", "math", math_rows(2), {"filters": FilterConfig(math_levels=[1])}),
        (
            *("decontaminate", "in_mmlu_test", "mmlu_train", None),
            {"decontaminate": DecontaminateConfig(path=str(tmp_path / "benchmarks"))},
        ),
        ("template", "stem_needs_options:of_the_following", "mmlu_train", [stem], {"question_template": "open"}),
        ("template", "no_options", "math", math_rows(2), {"question_template": "mcq"}),
        ("gold", "bad_gold", "math", [row | {"answer": "("} for row in math_rows(2)], {}),
    ):
        path = raw_file(source, rows)
        count = len(path.read_text().splitlines())
        says = rf"Source {source}: none of the {count} rows of .* in step {step}. Dropped: {reason} \({count}\)"
        fails(tmp_path, {source: path}, says, **fields)


def test_a_source_of_duplicates_alone_names_the_step_and_keeps_the_earlier_source(tmp_path, raw_file, raw_rows):
    twice = [*raw_rows["natural_reasoning"]]
    persona = raw_rows["personaskill_math"][0]
    same = [persona | {"meta_data": {"question": row["question"]}} for row in twice]
    out = tmp_path / "out" / "pool"
    paths = {
        "natural_reasoning": raw_file("natural_reasoning", twice),
        "personaskill_math": raw_file("personaskill_math", same),
    }
    with pytest.raises(UserError, match=r"the last went in step duplicates. Dropped: duplicate \(2\)"):
        prep.run(config(out, paths))
    assert [path.name for path in out.parent.iterdir()] == [".pool.unfinished"]


def test_a_hub_out_of_reach_names_the_source_and_the_way_round(tmp_path):
    unreachable = {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}", "HF_HOME": str(tmp_path / "hf")}
    environment = {**os.environ, **unreachable, "HF_HUB_DISABLE_TELEMETRY": "1"}
    words = [sys.executable, "-m", "recipes.cli", "prep", f"out={tmp_path / 'out' / 'pool'}", "sources=[numina_math]"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPO, env=environment, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Source numina_math: " in done.stderr and "out of reach" in done.stderr
    assert "sources.numina_math.path=FILE" in done.stderr
    assert not list((tmp_path / "out").iterdir())


# In a process of its own: the limit of a file's size stands in for a full disk. The workers inherit it.
LIMITED = """
import resource, sys
from recipes.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_named_and_keeps_what_is_finished(raw_file, tmp_path, workers):
    rows = mmlu_rows(9000)  # three blocks
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    pq.write_table(table, tmp_path / "mmlu.parquet")
    out = tmp_path / "out" / "pool"
    paths = {"syn_qa": raw_file("syn_qa"), "mmlu_train": tmp_path / "mmlu.parquet"}
    for chosen in (paths, {"mmlu_train": paths["mmlu_train"]}):
        words = command(out, chosen, f"workers={workers}")[3:]
        limited = [sys.executable, "-c", LIMITED, "200000", *words]
        done = subprocess.run(limited, capture_output=True, text=True, cwd=REPO, timeout=120)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert f"No space left to write {out}" in done.stderr
        left = [".pool.unfinished"] if "syn_qa" in chosen else []
        assert [path.name for path in out.parent.iterdir()] == left
        if left:
            assert (staging_folder(out) / ".syn_qa.finished.json").exists()
            assert not (staging_folder(out) / ".mmlu_train.blocks").exists()
            # The next run, over other sources, takes nothing of it up.


def test_a_worker_that_was_killed_is_named(tmp_path):
    rows = mmlu_rows(60_000)
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    pq.write_table(table, tmp_path / "mmlu.parquet")
    out = tmp_path / "out" / "pool"
    words = command(out, {"mmlu_train": tmp_path / "mmlu.parquet"}, "workers=2")
    process = subprocess.Popen(words, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (staging_folder(out) / ".mmlu_train.blocks" / "000000.arrow").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    children = psutil.Process(process.pid).children()
    next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in stderr, stderr
    assert "A worker process ended while it prepared mmlu_train" in stderr
    assert not list(out.parent.iterdir())


def test_an_interrupt_leaves_no_half_pool(raw_file, tmp_path):
    chosen = config(tmp_path / "out" / "pool", {"math": raw_file("math", math_rows(3))})
    chosen.sources["math"] = SourceConfig(path=str(raw_file("math", math_rows(3))))

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prep.card, "page", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prep.run(chosen)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".pool.unfinished"]
    prep.run(chosen)
    assert len(Pool.open(chosen.out)) == 3


def test_the_command_ends_with_a_sentence_and_a_code(raw_file, tmp_path):
    path = raw_file("math", [{"problem": "x"}])
    done = run_command(tmp_path / "pool", {"math": path})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"crossthink: {path}, line 1: no field 'level'" in done.stderr
