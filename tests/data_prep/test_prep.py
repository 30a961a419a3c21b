import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prep_helpers import check_sums, config, dropped, prepare, reasons, shown

from conf.compose import resolve
from conf.prep import DecontaminateConfig, DedupConfig, FilterConfig, PrepConfig, SourceConfig
from crossthink.errors import ConfigError, UserError
from data_prep import prep
from data_prep.pool import Pool
from data_prep.sources import SOURCES


def test_all_six_sources(raw_file, raw_rows, tmp_path, capsys):
    order = list(reversed(SOURCES))
    pool = prepare(tmp_path / "pool", {name: raw_file(name) for name in order})
    # Of math only the levels of the paper are kept.
    assert dropped(pool, "math") == {("filter", "level_not_wanted"): 1}
    assert list(pool.counts.items()) == [(name, len(raw_rows[name]) - (name == "math")) for name in order]
    manifest = pool.manifest
    assert manifest["licence"] == "CC-BY-NC-4.0" and manifest["left_out_by_licence"] == []
    assert manifest["template_version"] == manifest["filter_version"] == 2 and manifest["seed"] == 0
    assert list(manifest["prompts"]) == ["system", "mcq_short", "mcq_long", "open", "math"]
    assert all(len(fact["sha256"]) == 64 for fact in manifest["prompts"].values()) and manifest["tokenizer"] is None
    facts = manifest["sources"]["math"]
    assert (facts["licence"], facts["revision"], facts["dataset"]["hf_id"]) == ("MIT", None, SOURCES["math"].hf_id)
    assert facts["files"][0]["path"] == str(raw_file("math")) and len(facts["files"][0]["sha256"]) == 64
    assert "out" not in manifest["config"] and "workers" not in manifest["config"]

    spider = pool.row("mmlu_train", 1)
    assert (spider.kind, spider.ground_truth, spider.domain) == ("mcq", ["C. 8"], "gpr")
    system, user = spider.prompt
    assert system["role"] == "system" and "<think>" in system["content"]
    assert user["content"].startswith("How many legs has a spider?\n\nA. 4\nB. 6\nC. 8\nD. 10\n\n")
    assert json.loads(spider.meta) == {"licence": "MIT", "subject": "", "file": "mmlu_train.jsonl", "row": 2}
    printed = capsys.readouterr().out
    assert "rows in" in printed and "natural_reasoning" in printed and "total" in printed
    assert "Shares of the blends" in printed and "This pool is not decontaminated" in printed


def test_what_is_dropped_is_counted_and_some_of_it_shown(raw_file, raw_rows, tmp_path):
    numina, syn = raw_rows["numina_math"][0], raw_rows["syn_qa"][0]
    wrong = syn | {"reward_model": {"ground_truth": "A: Water"}, "meta_data": {"question": "X?\nA: Salt\nB: Water"}}
    reordered = syn | {
        "reward_model": {"ground_truth": "A"},
        "meta_data": {"question": "What is  H2O?\nA. Water\nB. Salt"},
    }
    proofs = [numina | {"answer": "proof", "problem": f"Prove {n}."} for n in range(9)]
    numina_rows = [*proofs, numina | {"problem_is_valid": "No"}, numina, numina | {"answer": ""}]
    paths = {
        "numina_math": raw_file("numina_math", numina_rows),
        "syn_qa": raw_file("syn_qa", [syn, wrong, reordered, syn | {"meta_data": {"question": "None?"}}]),
    }
    pool = prepare(tmp_path / "pool", paths)
    assert pool.counts == {"numina_math": 1, "syn_qa": 1}
    assert dropped(pool, "numina_math") == {
        ("parse", "answer_proof"): 9,
        ("parse", "problem_not_valid"): 1,
        ("filter", "answer_missing"): 1,
    }
    assert dropped(pool, "syn_qa") == {
        ("parse", "no_options_in_question"): 1,
        ("filter", "letter_and_text_disagree"): 1,
        ("duplicates", "duplicate"): 1,
    }
    by_reason = {}
    for row in shown(pool):
        by_reason.setdefault(row["reason"], []).append(row)
    assert {reason: len(rows) for reason, rows in by_reason.items()} == {
        "answer_proof": 5,
        **dict.fromkeys(["problem_not_valid", "answer_missing", "no_options_in_question"], 1),
        **dict.fromkeys(["letter_and_text_disagree", "duplicate"], 1),
    }
    assert by_reason["answer_proof"][4]["row"] == 5 and "Prove 4." in by_reason["answer_proof"][4]["raw"]
    disagree = by_reason["letter_and_text_disagree"][0]
    assert (disagree["gold"], disagree["gold_text"]) == (["A"], "Water") and disagree["options"]["A"] == "Salt"
    assert by_reason["duplicate"][0]["options"] == [
        {"label": "A", "text": "Water"},
        {"label": "B", "text": "Salt"},
    ]


def test_open_template_and_limit(raw_file, raw_rows, tmp_path):
    rows = raw_rows["mmlu_train"]
    long = rows[1] | {"question": "Name it.", "choices": ["a", "b", "two words", "c"]}
    stem = rows[1] | {"question": "Which of the following is it?"}
    chosen = config(
        tmp_path / "pool",
        {"mmlu_train": raw_file("mmlu_train", [*rows, long, stem, rows[0]])},
        question_template="open",
        filters=FilterConfig(max_answer_words=1),
    )
    chosen.sources["mmlu_train"].limit = 4
    prep.run(chosen)
    pool = Pool.open(tmp_path / "pool")
    check_sums(pool)
    assert [(row.kind, row.options, row.ground_truth) for row in pool.rows()] == [
        ("open", None, ["CO2"]),
        ("open", None, ["8"]),
    ]
    assert "A. 4" not in pool.row("mmlu_train", 1).prompt[-1]["content"]
    (template,) = [reason for step, reason in dropped(pool, "mmlu_train") if step == "template"]
    assert template.startswith("stem_needs_options") and reasons(pool, "mmlu_train")["answer_too_long"] == 1
    assert dropped(pool, "mmlu_train")["filter_open", "answer_too_long"] == 1


def test_mcq_template_and_short_answers(raw_file, tmp_path):
    paths = {"mmlu_train": raw_file("mmlu_train"), "syn_qa": raw_file("syn_qa")}
    pool = prepare(tmp_path / "pool", paths, question_template="mcq", answer_template="short")
    assert [row.ground_truth for row in pool.rows()] == [["B"], ["C"], ["B"]]
    assert {row.kind for row in pool.rows()} == {"mcq"}


def test_prompts_of_ones_own(raw_file, tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    texts = {"system": "", "mcq_short": "{question}\n{options}", "mcq_long": "L {question}\n{options}"}
    for name, text in (texts | {"open": "{question}", "math": "{question}"}).items():
        (folder / f"{name}.txt").write_text(text + "\n")
    chosen = config(tmp_path / "pool", {"mmlu_train": raw_file("mmlu_train")})
    chosen.prompts.folder = str(folder)
    prep.run(chosen)
    pool = Pool.open(tmp_path / "pool")
    assert pool.row("mmlu_train", 1).prompt == [
        {"role": "user", "content": "L How many legs has a spider?\nA. 4\nB. 6\nC. 8\nD. 10"}
    ]
    assert pool.manifest["prompts"]["mcq_long"]["text"] == "L {question}\n{options}"


def test_every_column_holds_what_the_schema_says(raw_file, tmp_path):
    paths = {name: raw_file(name) for name in SOURCES}
    pool = prepare(tmp_path / "pool", paths)
    for name in SOURCES:
        table = pq.read_table(pool.path / f"{name}.parquet")
        for column in ("id", "source", "domain", "kind", "question", "ground_truth", "prompt", "meta"):
            assert table.column(column).null_count == 0
        assert table.column("prompt_tokens").null_count == len(table)
        assert (table.column("options").null_count == 0) == (pool.row(name, 0).kind == "mcq")
        assert pa.types.is_int32(table.schema.field("prompt_tokens").type)


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    """A pool of every real sample that is in a source's own schema."""
    paths = {
        "mmlu_train": shared_data / "mmlu_auxiliary_train_science.jsonl",
        "natural_reasoning": shared_data / "natural_reasoning_two_rows_no_responses.jsonl",
        "math": shared_data / "math_train_sample.jsonl",
    }
    filters = FilterConfig(math_levels=None)
    return prepare(tmp_path_factory.mktemp("real") / "pool", paths, filters=filters), paths


def test_real_rows_end_to_end(real):
    pool, paths = real
    rows_in = {name: facts["rows_in"] for name, facts in pool.manifest["sources"].items()}
    assert rows_in == {"mmlu_train": 601, "natural_reasoning": 2, "math": 724}
    assert reasons(pool, "natural_reasoning") == {"answer_too_long": 1}
    assert all(row.ground_truth[0].partition(". ")[0] in row.options for row in pool.rows("mmlu_train"))
    raw = {row["problem"].strip(): row for row in map(json.loads, paths["math"].open(encoding="utf-8"))}
    assert pool.counts["math"] > 700 and set(reasons(pool, "math")) <= {"bad_gold", "duplicate"}
    for row in pool.rows("math"):
        boxed = "".join(f"boxed{{{row.ground_truth[0]}}}".split())
        assert boxed in "".join(raw[row.question]["solution"].split())


def test_real_rows_through_the_open_template(shared_data, tmp_path):
    paths = {
        "math": shared_data / "math_train_sample.jsonl",
        "mmlu_train": shared_data / "mmlu_auxiliary_train_science.jsonl",
    }
    filters = FilterConfig(math_levels=[3, 4, 5], gold=False)
    hard = prepare(tmp_path / "hard", paths, filters=filters, question_template="open")
    assert {json.loads(row.meta)["level"] for row in hard.rows("math")} == {3, 4, 5}
    assert {row.kind for row in hard.rows("mmlu_train")} == {"open"}
    assert 0 < hard.counts["mmlu_train"] < 601
    stems = sum(n for (step, _), n in dropped(hard, "mmlu_train").items() if step == "template")
    assert stems > 100


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("numinamath_1_5_two_rows", r"none of the 2 rows of .* in step parse. Dropped: answer_proof \(2\)"),
        (
            "numinamath_cot_three_rows",
            "line 1: no field 'answer', which source numina_math needs. The row has",
        ),
    ],
)
def test_real_rows_that_cannot_be_verified(shared_data, tmp_path, name, says):
    with pytest.raises(UserError, match=says):
        prepare(tmp_path / "pool", {"numina_math": shared_data / f"{name}.jsonl"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sources": {}}, r"sources= is empty. Give one or more of mmlu_train, syn_qa, .*, such as sources=\[math\]"),
        (
            {"sources": {"maths": SourceConfig(path=".")}},
            "no source 'maths'. Allowed: mmlu_train, .* Did you mean 'math'",
        ),
        ({"sources": {"math": SourceConfig(path="/no/file")}}, "sources.math.path=/no/file does not exist"),
        (
            {"sources": {"math": SourceConfig(path=".", limit=0)}},
            "sources.math.limit=0 is not allowed. Allowed: 1 or more",
        ),
        ({"sources": {"math": SourceConfig(path=".", sample=-1)}}, "sources.math.sample=-1 is not allowed"),
        (
            {"sources": {"math": SourceConfig(path=".", licence="GPL")}},
            r"sources.math.licence: licence 'GPL' is not known. Known, .*: CC0-1.0, MIT",
        ),
        ({"question_template": "closed"}, "question_template=closed is not allowed. Allowed: mixed, open, mcq"),
        ({"answer_template": "both"}, "answer_template=both is not allowed. Allowed: long, short"),
        ({"licence": "MIT"}, "licence=MIT is not allowed. Allowed: any, commercial"),
        ({"bad_rows": "keep"}, "bad_rows=keep is not allowed. Allowed: stop, drop"),
        ({"workers": 0}, "workers=0 is not allowed. Allowed: 1 to"),
        ({"seed": -1}, "seed=-1 is not allowed"),
        ({"filters": FilterConfig(max_answer_words=0)}, "filters.max_answer_words=0 is not allowed"),
        ({"filters": FilterConfig(math_levels=[3, 6])}, r"filters.math_levels=\[3, 6\] is not allowed"),
        ({"filters": FilterConfig(math_levels=[])}, r"filters.math_levels=\[\] is not allowed"),
        ({"dedup": DedupConfig(threshold=1.5)}, "dedup.threshold=1.5 is not allowed"),
        ({"dedup": DedupConfig(threshold=float("nan"))}, "dedup.threshold=nan is not allowed"),
        ({"decontaminate": DecontaminateConfig(coverage=0)}, "decontaminate.coverage=0 is not allowed"),
        ({"decontaminate": DecontaminateConfig(path="/no/folder")}, "decontaminate.path=/no/folder is not a folder"),
        ({"export": ["verl", "trll"]}, "trll.*Did you mean 'trl'"),
        ({"out": "???"}, "out= is missing"),
        ({"out": "."}, "out=. already exists, and a pool is written once. Choose another out="),
        ({"out": f"{__file__}/pool"}, "no folder can be made there .Not a directory"),
    ],
)
def test_impossible_configurations_are_refused_before_anything_is_read(change, says, raw_file, tmp_path):
    good = config(tmp_path / "out" / "pool", {"math": raw_file("math")})
    for key, value in change.items():
        setattr(good, key, value)
    with pytest.raises(ConfigError, match=says):
        prep.run(good)
    assert not (tmp_path / "out").exists()


def test_a_licence_that_leaves_no_source_is_refused(raw_file, tmp_path):
    paths = {"natural_reasoning": raw_file("natural_reasoning")}
    with pytest.raises(ConfigError, match="licence=commercial leaves no source"):
        prep.run(config(tmp_path / "pool", paths, licence="commercial"))


def test_the_command_line_gives_sources_in_the_order_of_the_list(raw_file, tmp_path):
    path = raw_file("math")
    words = ["sources=[mmlu_train,math]", f"sources.math.path={path}", f"sources.mmlu_train.path={path}"]
    composed = resolve("prep", PrepConfig, [f"out={tmp_path / 'pool'}", *words])
    assert list(composed.sources) == ["mmlu_train", "math"]
    assert composed.sources["math"] == SourceConfig(path=str(path))
    assert resolve("prep", PrepConfig, ["out=x", "sources=[natural_reasoning]"]).sources == {
        "natural_reasoning": SourceConfig(sample=100_000)
    }
    for name in SOURCES:
        assert list(resolve("prep", PrepConfig, ["out=x", f"sources=[{name}]"]).sources) == [name]
    for words in (["sources=[maths]"], ["sources=[math]", "sources.math.pth=x"], ["dedup.exakt=false"]):
        with pytest.raises(ConfigError):
            resolve("prep", PrepConfig, ["out=x", *words])


def test_paths_are_taken_as_they_are(tmp_path):
    for key in ("out", "sources.math.path", "decontaminate.path", "prompts.folder", "prompts.tokenizer"):
        words = {"out": "x", "sources": "[math]"} | {key: "/a b/c=d (1), {e}"}
        composed = resolve("prep", PrepConfig, [f"{name}={value}" for name, value in words.items()])
        for part in key.split("."):
            composed = composed[part] if isinstance(composed, dict) else getattr(composed, part)
        assert composed == "/a b/c=d (1), {e}"
