"""What `crossthink prep` is asked to leave out or to add: duplicates, benchmarks, licences, samples, exports."""

import json

import pyarrow.parquet as pq
from prep_helpers import check_sums, config, dropped, math_rows, prepare, reasons, run_command

from conf.prep import DecontaminateConfig, DedupConfig, SourceConfig
from data_prep import prep
from data_prep.pool import Pool
from data_prep.sources import SOURCES


def test_duplicates_across_sources_and_how_to_keep_them(raw_file, raw_rows, tmp_path):
    twice = raw_rows["personaskill_math"][0]
    question = twice["meta_data"]["question"]
    paths = {
        "personaskill_math": raw_file("personaskill_math", [twice, twice]),
        "math": raw_file("math", [*math_rows(2), math_rows(1)[0] | {"problem": f"  {question}\n"}]),
    }
    pool = prepare(tmp_path / "pool", paths)
    assert pool.counts == {"personaskill_math": 1, "math": 2}
    assert reasons(pool, "personaskill_math") == reasons(pool, "math") == {"duplicate": 1}
    prep.run(config(tmp_path / "all", paths, dedup=DedupConfig(exact=False)))
    assert Pool.open(tmp_path / "all").counts == {"personaskill_math": 2, "math": 3}


def test_near_duplicates_only_on_request(raw_file, tmp_path):
    (base,) = math_rows(1)
    long = " ".join(f"word{n}" for n in range(60)) + " "
    rows = [base | {"problem": long + end} for end in ("at the old bridge.", "by the old bridge.")]
    paths = {"math": raw_file("math", [*rows, base])}
    assert prepare(tmp_path / "all", paths).counts == {"math": 3}
    pool = prepare(tmp_path / "near", paths, dedup=DedupConfig(near=True))
    assert dropped(pool, "math") == {("near_duplicates", "near_duplicate"): 1}
    assert pool.row("math", 0).question == long + "at the old bridge."


def test_benchmark_questions_are_taken_out_and_listed(raw_file, raw_rows, tmp_path):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    spider = raw_rows["mmlu_train"][1]
    copies = {
        "mmlu_test": [spider | {"choices": spider["choices"][::-1], "answer": 1}],
        "math500": [{"problem": "What is the sum of all of the positive whole divisors of 28?", "answer": "56"}],
        "gpqa_diamond": [
            {
                "Question": "Which noble vapour glows under the seventh moon of the secret planet?",
                "Correct Answer": "x",
                **{f"Incorrect Answer {n}": f"y{n}" for n in (1, 2, 3)},
            }
        ],
    }
    for name, rows in copies.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    secret = {
        "question": "Which noble vapour glows under the seventh moon of the secret planet?",
        "choices": ["x", "y1", "y2", "y3"],
    }
    math = math_rows(1)[0] | {"problem": "what is the SUM of all of the positive, whole divisors of 28"}
    paths = {
        "mmlu_train": raw_file("mmlu_train", [*raw_rows["mmlu_train"], raw_rows["mmlu_train"][0] | secret]),
        "math": raw_file("math", [*math_rows(2), math]),
    }
    pool = prepare(tmp_path / "pool", paths, decontaminate=DecontaminateConfig(path=str(folder)))
    assert dropped(pool, "mmlu_train") == {
        ("decontaminate", "in_mmlu_test"): 1,
        ("decontaminate", "in_gpqa_diamond"): 1,
    }
    assert dropped(pool, "math") == {("decontaminate", "in_math500"): 1}
    facts = pool.manifest["decontamination"]
    assert facts["complete"] is False and facts["absent"] == ["mmlu_pro", "agieval", "supergpqa", "amc23"]
    assert facts["removed"]["mmlu_train"] | {"mmlu_test": 0, "gpqa_diamond": 0} == dict.fromkeys(
        facts["removed"]["math"], 0
    )
    assert (facts["removed"]["mmlu_train"]["gpqa_diamond"], facts["removed"]["math"]["math500"]) == (1, 1)
    assert list(facts["benchmarks"]) == ["mmlu_test", "gpqa_diamond", "math500"]
    removed = [json.loads(line) for line in (pool.path / "contaminated.jsonl").read_text().splitlines()]
    assert [(row["source"], row["row"], row["benchmarks"], row["item"]) for row in removed] == [
        ("mmlu_train", 2, ["mmlu_test"], "mmlu_test.jsonl:1"),
        ("mmlu_train", 3, ["gpqa_diamond"], "gpqa_diamond.jsonl:1"),
        ("math", 3, ["math500"], "math500.jsonl:1"),
    ]
    # A pool may be published, and the questions of a private benchmark must not be.
    for file in pool.path.iterdir():
        assert b"noble vapour" not in file.read_bytes().lower()
    assert not list(pool.path.glob(".*"))


def test_absent_benchmarks_are_named_loudly(raw_file, tmp_path, capsys):
    pool = prepare(tmp_path / "pool", {"math": raw_file("math")})
    facts = pool.manifest["decontamination"]
    assert facts["complete"] is False and len(facts["absent"]) == 7 and facts["benchmarks"] == {}
    printed = " ".join(capsys.readouterr().out.split())
    assert f"not decontaminated: no rows of {', '.join(facts['absent'])} were given" in printed


def test_licence(raw_file, tmp_path):
    paths = {name: raw_file(name) for name in ("natural_reasoning", "math", "syn_qa")}
    pool = prepare(tmp_path / "commercial", paths, licence="commercial")
    assert list(pool.counts) == ["math", "syn_qa"] and pool.manifest["left_out_by_licence"] == ["natural_reasoning"]
    assert pool.manifest["licence"] == "CC-BY-4.0"
    assert prepare(tmp_path / "any", paths).manifest["licence"] == "CC-BY-NC-4.0"

    mine = config(tmp_path / "mine", paths, licence="commercial")
    mine.sources["natural_reasoning"].licence = "CC0-1.0"
    mine.sources["math"].licence = "CC-BY-NC-SA-4.0"
    prep.run(mine)
    pool = Pool.open(tmp_path / "mine")
    assert list(pool.counts) == ["natural_reasoning", "syn_qa"]
    assert json.loads(pool.row("natural_reasoning", 0).meta)["licence"] == "CC0-1.0"
    assert pool.manifest["sources"]["natural_reasoning"]["licence"] == "CC0-1.0"
    assert pool.manifest["sources"]["natural_reasoning"]["dataset"]["licence"] == "CC-BY-NC-4.0"


def sampled(out, path, size, seed=0, **more):
    chosen = config(out, {"math": path, **more}, seed=seed)
    chosen.sources["math"].sample = size
    prep.run(chosen)
    pool = Pool.open(out)
    check_sums(pool)
    return pool


def test_a_sample_is_the_same_whatever_the_order_of_the_rows(raw_file, tmp_path):
    rows = math_rows(200)
    wrong = [rows[0] | {"problem": "None.", "solution": "no box"}]
    pool = sampled(tmp_path / "a", raw_file("math", rows), 50)
    chosen = [row.question for row in pool.rows()]
    assert pool.counts == {"math": 50} and dropped(pool, "math") == {("sample", "not_sampled"): 150}
    assert chosen == sorted(chosen, key=[row["problem"] for row in rows].index), "in the order of the source"
    turned = sampled(tmp_path / "b", raw_file("math", wrong + rows[::-1] + rows[:7]), 50)
    assert [row.question for row in turned.rows()] == chosen[::-1]
    assert reasons(turned, "math") == {"answer_missing": 1, "duplicate": 7, "not_sampled": 150}
    # Of fewer rows the same ones are chosen, as far as they are there.
    half = sampled(tmp_path / "c", raw_file("math", rows[:100]), 50)
    assert {q for q in chosen if q in {row["problem"] for row in rows[:100]}} <= {row.question for row in half.rows()}
    other = {row.question for row in sampled(tmp_path / "d", raw_file("math", rows), 50, seed=1).rows()}
    assert other != set(chosen) and len(other) == 50
    assert sampled(tmp_path / "e", raw_file("math", rows), 200).counts == {"math": 200}


def test_a_later_source_may_keep_what_an_earlier_one_did_not_sample(raw_file, raw_rows, tmp_path):
    rows, persona = math_rows(10), raw_rows["personaskill_math"][0]
    same = [persona | {"meta_data": {"question": row["problem"]}} for row in rows]
    pool = sampled(tmp_path / "a", raw_file("math", rows), 3, personaskill_math=raw_file("personaskill_math", same))
    assert pool.counts == {"math": 3, "personaskill_math": 7}
    assert reasons(pool, "personaskill_math") == {"duplicate": 3}
    assert {row.question for row in pool.rows()} == {row["problem"] for row in rows}


def test_a_dry_run_prints_and_writes_nothing(raw_file, tmp_path, capsys):
    chosen = config(tmp_path / "new" / "pool", {"math": raw_file("math")}, export=["verl"], licence="commercial")
    chosen.sources["numina_math"] = SourceConfig()
    chosen.sources["natural_reasoning"] = SourceConfig()
    before = sorted(tmp_path.rglob("*"))
    prep.run(chosen, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    printed = "".join(capsys.readouterr().out.split())
    for text in ("math.jsonl", "AI-MO/NuminaMath-1.5", "newest", "Apache-2.0", "exportverl", "Leftout", "newpool"):
        assert text.replace("newpool", "new/pool") in printed.replace("│", ""), text


def test_a_dry_run_from_the_command_line(raw_file, tmp_path):
    done = run_command(tmp_path / "out" / "pool", {"math": raw_file("math")}, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "") and "Would read" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["math.jsonl"]


def test_exports_stand_in_the_pool_and_in_the_manifest(raw_file, tmp_path, capsys):
    paths = {name: raw_file(name) for name in SOURCES}
    pool = prepare(tmp_path / "pool", paths, export=["verl", "trl", "nemo_rl", "openrlhf"])
    facts = pool.manifest["exports"]
    assert list(facts) == ["verl", "trl", "nemo_rl", "openrlhf"]
    printed = "".join(capsys.readouterr().out.split())
    assert all(f"Export{name}:{pool.path}/exports/{name}" in printed for name in facts)
    table = pq.read_table(pool.path / "exports" / "verl" / "train.parquet")
    assert table.num_rows == len(pool) and table.column("data_source")[0].as_py() == "crossthink/mmlu_train"
    lines = (pool.path / "exports" / "nemo_rl" / "train.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == len(pool)
