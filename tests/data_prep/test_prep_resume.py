"""One pool whatever the number of workers, and whatever killed the runs before: every byte of its folder."""

import json
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prep_helpers import REPO, check_sums, command, config, contents, dropped, math_rows, mmlu_rows, run_command
from process_helpers import command_line, still_running

from conf.prep import DecontaminateConfig, DedupConfig
from crossthink.errors import ConfigError, UserError
from data_prep import files, prep
from data_prep.pool import Pool
from data_prep.staging import staging, staging_folder

SOON_S = 60  # for what takes a second, on a machine that does much else


def test_the_number_of_workers_changes_no_byte(raw_file, raw_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 4000)  # blocks are cut in this process
    words = " ".join(f"word{n}" for n in range(40))
    rows = {name: found * 2 for name, found in raw_rows.items()}
    rows["mmlu_train"] += [*mmlu_rows(150), *mmlu_rows(60), *mmlu_rows(20) * 3]
    rows["math"] += [*math_rows(60), *({**row, "solution": r"\boxed{\frac{x}{3}}"} for row in math_rows(80))]
    rows["math"] += [math_rows(1)[0] | {"problem": f"{words} {end}"} for end in ("one", "two")]
    rows["natural_reasoning"] += [{"question": f"Why {n}?", "reference_answer": "so " * (n % 15)} for n in range(90)]
    paths = {name: raw_file(name, found) for name, found in rows.items()}
    (tmp_path / "benchmarks").mkdir()
    benchmark = mmlu_rows(1, first=7)[0]
    (tmp_path / "benchmarks" / "mmlu_test.jsonl").write_text(json.dumps(benchmark) + "\n")
    pools = []
    for workers in (1, 2):
        chosen = config(
            tmp_path / f"workers{workers}" / "pool",
            paths,
            workers=workers,
            dedup=DedupConfig(near=True),
            decontaminate=DecontaminateConfig(path=str(tmp_path / "benchmarks")),
            export=["verl"],
        )
        chosen.sources["mmlu_train"].sample = 5
        prep.run(chosen)
        pools.append(Pool.open(chosen.out))
    check_sums(pools[0])
    assert contents(pools[0].path) == contents(pools[1].path)
    found = {name: {step for step, _ in dropped(pools[0], name)} for name in rows}
    assert found["mmlu_train"] == {"decontaminate", "duplicates", "near_duplicates", "sample"}
    assert found["math"] >= {"filter", "duplicates", "near_duplicates"} and "filter" in found["natural_reasoning"]


@pytest.fixture
def big(raw_file, raw_rows, tmp_path):
    """Three sources: a short one, one of many blocks, and one whose ground truths need the reward server's workers."""
    rows = mmlu_rows(30_000)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pq.write_table(pa.table(columns), tmp_path / "mmlu.parquet")
    slow = [row | {"solution": rf"\boxed{{\frac{{x^{n}+1}}{{2}}}}"} for n, row in enumerate(math_rows(3))]
    return {
        "syn_qa": raw_file("syn_qa"),
        "mmlu_train": tmp_path / "mmlu.parquet",
        "math": raw_file("math", slow),
    }


def kill_when(words, path=None, child=None):
    """Start a command and kill -9 it as soon as `path` exists or a child process runs the module `child`.

    Nothing of it may go on. Returns its stderr.
    """
    process = subprocess.Popen(words, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + SOON_S
    children = []
    while not (path.exists() if path else any(child in words for words in map(command_line, children))):
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
        time.sleep(0.002)
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    alive = still_running(children, 10)
    for child in alive:
        child.kill()
    assert not alive, "a worker outlives the run"
    return process.communicate(timeout=SOON_S)[1]


def test_a_killed_run_goes_on_from_its_last_finished_source(big, tmp_path):
    out, again = tmp_path / "killed" / "pool", tmp_path / "whole" / "pool"
    unfinished, words = staging_folder(out), command(out, big, "workers=2")
    # At a source's end; in the middle of one; while it is written and the next one has just started the reward server's
    # workers; at its end.
    mmlu_done = unfinished / ".mmlu_train.finished.json"
    said = [
        kill_when(words, unfinished / ".syn_qa.finished.json"),
        kill_when(words, unfinished / ".mmlu_train.blocks" / "000002.arrow"),
    ]
    assert not mmlu_done.exists()
    said.append(kill_when(words, child="reward_server.nursery"))
    if not mmlu_done.exists():
        said.append(kill_when(words, mmlu_done))
    assert not out.exists() and not (unfinished / ".math.finished.json").exists()
    before = (unfinished / "mmlu_train.parquet").stat().st_mtime_ns

    done = run_command(out, big, "workers=2")
    assert done.returncode == 0, done.stderr
    assert ["syn_qa: taken up" in text for text in said] == [False] + [True] * (len(said) - 1)
    assert not any("mmlu_train: taken up" in text for text in said)
    assert "syn_qa: taken up" in done.stderr
    assert "mmlu_train: taken up from the unfinished run, 30,000 rows" in done.stderr
    assert (out / "mmlu_train.parquet").stat().st_mtime_ns == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["pool"] and not list(out.glob(".*"))

    prep.run(config(again, big, workers=1))
    assert contents(out) == contents(again)
    check_sums(Pool.open(out))


@pytest.fixture
def half(raw_file, tmp_path):
    """A run whose second source fails: its configuration, and the unfinished folder with the first source."""
    (tmp_path / "math.jsonl").write_text("broken\n")
    paths = {"mmlu_train": raw_file("mmlu_train"), "math": tmp_path / "math.jsonl", "syn_qa": raw_file("syn_qa")}
    chosen = config(tmp_path / "out" / "pool", paths)
    with pytest.raises(UserError, match="math.jsonl, line 1: not a line of JSON"):
        prep.run(chosen)
    return chosen, staging_folder(tmp_path / "out" / "pool")


def write_good(chosen):
    with open(chosen.sources["math"].path, "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in math_rows(3))


def taken_up(chosen, capsys):
    """Run, and name the sources that were not made again."""
    capsys.readouterr()
    prep.run(chosen)
    lines = capsys.readouterr().err.splitlines()
    return [line.split(":")[0].strip() for line in lines if "taken up from the unfinished run" in line]


def test_a_failed_run_keeps_its_finished_sources(half, capsys):
    chosen, unfinished = half
    names = {path.name for path in unfinished.iterdir()}
    assert names == {".lock", ".mmlu_train.finished.json", ".mmlu_train.keys", "mmlu_train.parquet"}
    assert [path.name for path in unfinished.parent.iterdir()] == [".pool.unfinished"]
    write_good(chosen)
    assert taken_up(chosen, capsys) == ["mmlu_train"]
    pool = Pool.open(chosen.out)
    assert pool.counts == {"mmlu_train": 2, "math": 3, "syn_qa": 1} and not unfinished.exists()


def test_a_duplicate_of_a_source_that_was_taken_up_is_seen(half, raw_rows, capsys):
    chosen, _ = half
    write_good(chosen)
    first = raw_rows["mmlu_train"][0]
    text = first["question"] + "".join(
        f"\n{label}: {choice}" for label, choice in zip("ABCD", first["choices"], strict=True)
    )
    row = {**raw_rows["syn_qa"][0], "meta_data": {"question": text}, "reward_model": {"ground_truth": "B: CO2"}}
    with open(chosen.sources["syn_qa"].path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
    assert taken_up(chosen, capsys) == ["mmlu_train"]
    assert dropped(Pool.open(chosen.out), "syn_qa") == {("duplicates", "duplicate"): 1}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"question_template": "open"},
        {"dedup": DedupConfig(exact=False)},
        {"bad_rows": "drop"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_configuration_takes_nothing_up(half, change, capsys):
    chosen, _ = half
    write_good(chosen)
    for key, value in change.items():
        setattr(chosen, key, value)
    assert taken_up(chosen, capsys) == []


@pytest.mark.parametrize("change", [{"workers": 2}, {"export": ["trl"]}], ids=lambda change: next(iter(change)))
def test_what_changes_no_row_is_no_other_configuration(half, change, capsys):
    chosen, _ = half
    write_good(chosen)
    for key, value in change.items():
        setattr(chosen, key, value)
    assert taken_up(chosen, capsys) == ["mmlu_train"]


def test_other_input_or_another_order_takes_nothing_up(half, raw_file, raw_rows, capsys):
    chosen, unfinished = half
    before = contents(unfinished)
    write_good(chosen)
    turned = dict(reversed(chosen.sources.items()))
    chosen.sources, given = turned, chosen.sources
    assert taken_up(chosen, capsys) == []

    unfinished.mkdir()
    for name, content in before.items():
        (unfinished / name).write_bytes(content)
    chosen.sources, chosen.out = given, str(unfinished.parent / "pool2")
    unfinished.rename(staging_folder(unfinished.parent / "pool2"))
    raw_file("mmlu_train", raw_rows["mmlu_train"][::-1])  # as many bytes, and other ones
    assert taken_up(chosen, capsys) == []
    assert Pool.open(chosen.out).row("mmlu_train", 0).question == raw_rows["mmlu_train"][1]["question"]


def test_a_hub_out_of_reach_costs_no_finished_source(half, monkeypatch, capsys):
    chosen, unfinished = half
    write_good(chosen)
    path, chosen.sources["syn_qa"].path = chosen.sources["syn_qa"].path, None

    def no_hub(source, revision):
        raise UserError(f"Source {source.name}: the hub is out of reach.")

    monkeypatch.setattr(prep, "fetch", no_hub)
    with pytest.raises(UserError, match="Source syn_qa: the hub is out of reach"):
        prep.run(chosen)
    assert (unfinished / ".mmlu_train.finished.json").exists()
    chosen.sources["syn_qa"].path = path
    assert taken_up(chosen, capsys) == ["mmlu_train"]


def test_an_output_in_use_is_left_alone(half):
    chosen, unfinished = half
    write_good(chosen)
    with staging(Path(chosen.out)):  # what a second process holds
        before = contents(unfinished)
        with pytest.raises(ConfigError, match="pool is in use by another process. Wait for it or choose another out="):
            prep.run(chosen)
        assert contents(unfinished) == before
    prep.run(chosen)
    assert len(Pool.open(chosen.out)) == 6
