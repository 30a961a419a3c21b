"""The report over runs and evaluations: our rows beside the paper's, nothing private, nothing that runs."""

import base64
import hashlib
import json
import re
import shutil

import pytest
from comparison_world import SECRET, answers, facts, make_world, summary_of, with_blend
from eval_samples import sample, write_evaluation
from report_helpers import NASTY, Page, make_run

from conf.compose import resolve
from conf.report import ReportConfig
from crossthink.errors import ConfigError, UserError
from recipes import report
from recipes.reporting.measured import arm_of, is_large, read_entries, read_evaluations, read_runs
from recipes.reporting.picks import pick_answers, script_data


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder, page and Markdown of a comparison."""
    folder = tmp_path_factory.mktemp("world")
    words = make_world(folder)
    report.run(ReportConfig(**words, out=str(folder / "report.html")))
    return folder, (folder / "report.html").read_text("utf-8"), (folder / "report.md").read_text("utf-8")


def table_of(markdown, title):
    """The rows of a Markdown table below a heading, by label."""
    text = markdown[markdown.index(title) :]
    lines = text[text.index("| ---") :].split("\n\n")[0].splitlines()[1:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_ours_stand_below_the_published_rows(world):
    folder, _, markdown = world
    rows = table_of(markdown, "### Table 4")
    labels = list(rows)
    place = labels.index(next(label for label in labels if label.startswith("B\\_gpr↑")))
    assert labels[place + 1].startswith("**gpr-up run** (ours: tiny, step\\_000040, 1 run)")
    assert rows[labels[place]][:4] == ["58.12", "52.84 (derived)", "71.30 (derived)", "74.94"]
    summary = summary_of(folder / "eval_gpr_up")
    low, high = summary["average"]["intervals"]["all"]
    average = f"{100 * summary['average']['all']:.2f} ({100 * low:.1f} to {100 * high:.1f}; mean of 7 benchmarks)"
    assert rows[labels[place + 1]][0] == average
    mmlu = summary["benchmarks"]["mmlu_test"]
    low, high = mmlu["accuracy_interval"]
    assert rows[labels[place + 1]][3] == f"{100 * mmlu['accuracy']:.2f} ({100 * low:.1f} to {100 * high:.1f}; n = 60)"
    assert labels[1].startswith("**base**") and sum(label.startswith("**") for label in labels) == 3


def test_no_cell_is_blank_and_unknown_is_said(world):
    _, _, markdown = world
    for title in ("## Our evaluations", "## Paired", *(f"### Table {n}" for n in (3, 4, 5, 6, 7, 9)), "## Costs"):
        rows = table_of(markdown, title)
        assert rows and all(cell for row in rows.values() for cell in row)
    rows = table_of(markdown, "### Table 7")
    assert [len(row) for row in rows.values()] == [10, 10, 10] and not any(label.startswith("**") for label in rows)
    assert next(iter(rows.values())) == ["54.33"] + ["unknown"] * 9
    few = next(row for label, row in table_of(markdown, "## Our evaluations").items() if label.startswith("**few"))
    assert few[0].endswith("mean of 1 benchmark)") and few[3] == "not asked"


def test_lengths_of_right_answers(world):
    folder, _, markdown = world
    rows = table_of(markdown, "### Table 9")
    ours = next(row for label, row in rows.items() if label.startswith("**math run"))
    benchmarks = summary_of(folder / "eval_only_mr")["benchmarks"]
    right = [benchmarks[name]["tokens"]["right"] for name in ("math500", "amc23")]
    expected = sum(one["mean"] for one in right) / 2
    assert ours[1].startswith(f"{expected:.0f} (") and ours[1].endswith(
        f"2 benchmarks, {sum(one['count'] for one in right)} answers)"
    )
    low, high = re.search(r"\((\d+) to (\d+);", ours[1]).groups()
    assert int(low) < expected < int(high)


def test_differences_and_why_there_are_none(world):
    _, _, markdown = world
    rows = table_of(markdown, "## Paired differences")
    assert len(rows) == 3 and all("few" not in label for label in rows)
    first = rows["**gpr-up run − base** (310 questions, 0 left out)"]
    assert re.match(r"\+\d+\.\d \(\+\d+\.\d to \+\d+\.\d; n = 310\)", first[1])
    assert markdown.count("Not compared: few − ") == 3 and f"{'q' * 64} and {'f' * 64}" in markdown


def test_costs_of_the_runs(world):
    _, _, markdown = world
    row = table_of(markdown, "## Costs")["**gpr\\_up** (blend gpr\\_up)"]
    assert row[:3] == ["40", "1 min 20 s", "20.0 s (25 %)"] and row[-3:] == ["360\u202f000", "4\u202f500", "unknown"]


def test_the_page_is_whole_and_fetches_nothing(world):
    _, text, _ = world
    page = Page(text)
    assert page.references and all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert not re.search(r"@import|url\((?!#)", text) and "link" not in page.tags
    assert page.tags.count("svg") == 4  # two curves, accuracy against length, MMLU-PRO's categories
    for words in ("also stand in the training pool", "m<b> at http://h/v1", "its averages are not the paper's"):
        assert words in page.text


def test_only_the_pages_own_script_may_run(world):
    _, text, _ = world
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1 and text.count("<script") == 2
    told = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{told}'" in text and "default-src 'none'" in text


def test_the_answers_are_data_and_nothing_private_is_among_them(world):
    _, text, _ = world
    assert SECRET not in text
    data = text[text.index('id="samples-data">') + 18 :]
    data = data[: data.index("</script>")]
    assert not set("<>&\u2028\u2029\u202e") & set(data)
    shown = json.loads(data)
    assert 150 < len(shown) <= 200
    origins = {one["origin"] for one in shown}
    assert {"base", "gpr-up run", "math run", "few", "gpr_up, step 1", "gpr_up, step 40"} <= origins
    topics = {one["topic"] for one in shown if one["origin"] == "base"}
    assert topics == {"mmlu_test", "mmlu_pro", "agieval", "supergpqa", "math500", "amc23"}
    nasty = next(one["response"] for one in shown if "alert(1)" in one["response"])
    assert "</div>" in nasty and "‹U+202E›" in nasty and "‹U+2028›" in nasty


def test_the_same_input_gives_the_same_bytes(tmp_path):
    run = with_blend(make_run(tmp_path / "run", steps=3, evaluated=False), "nd")
    pages = []
    for name in ("one", "other"):
        report.run(ReportConfig(runs=[str(run)], out=str(tmp_path / f"{name}.html")))
        pages.append([(tmp_path / f"{name}.{end}").read_bytes() for end in ("html", "md")])
    assert pages[0] == pages[1]
    assert b"the tables below are the paper" in pages[0][0]


def test_texts_of_the_model_are_escaped_everywhere(tmp_path):
    samples = [sample(n, n % 2, "mmlu_pro", groups={"category": NASTY[n:]}) for n in (0, 5)]
    for one in samples:
        one["question"] = one["response"] = NASTY.replace("\ud800", "")
        one["groups"] = {"category": one["groups"]["category"].replace("\ud800", "")}
    folder = write_evaluation(tmp_path / "eval", samples, facts=facts(endpoint="http://<script>", model=NASTY))
    report.run(ReportConfig(evaluations=[f"$x$ <script>alert(2)</script>={folder}"], out=str(tmp_path / "page.html")))
    text = (tmp_path / "page.html").read_text("utf-8")
    Page(text)
    assert text.count("<script") == 2 and "\u202e" not in text and "\x00" not in text
    markdown = (tmp_path / "page.md").read_text("utf-8")
    assert "<script" not in re.sub(r"\\<", "", markdown) and "\u202e" not in markdown


def test_evaluations_inside_a_run(tmp_path):
    run = with_blend(make_run(tmp_path / "run", steps=3, evaluated=False), "only_gpr")
    samples = answers(0.5, ("math500",))
    write_evaluation(run / "eval/base", samples, facts=facts(checkpoint=str(run / "base")))
    write_evaluation(run / "eval/final", samples, facts=facts(checkpoint=str(run / "checkpoints/step_000003")))
    for step in (1, 2):
        known = facts(checkpoint=str(run / f"checkpoints/step_{step:06d}"))
        write_evaluation(run / f"evaluations/step_{step:06d}", samples, facts=known)
    runs = read_runs([f"mine={run}"])
    found = {one.name: one for one in read_evaluations(runs, [])}
    assert {name: one.arm for name, one in found.items()} == {
        "mine before": "base",
        "mine": "only_gpr",
        "mine step_000001": "only_gpr",
        "mine step_000002": "only_gpr",
    }
    assert found["mine"].model == "tiny, step_000003" and not found["mine"].large
    assert [one.name for one in read_evaluations([], [f"steps={run / 'evaluations'}"])] == [
        "steps step_000001",
        "steps step_000002",
    ]


def test_which_row_a_run_belongs_to():
    assert arm_of({"recipe": "table5_open", "blend": {"name": "nd"}}) == "table5_open"
    assert arm_of({"recipe": "tiny", "blend": {"name": "mr_up"}}) == "mr_up"
    assert arm_of({"blend": {"name": "custom"}}) is arm_of({}) is None
    assert is_large({"recipe": "crossthink_32b"}) and is_large({"model": {"name": "folder", "path": "m/Qwen2.5-32B"}})
    assert not is_large({"recipe": "crossthink_7b", "model": {"name": "qwen2_5_7b", "path": None}})


def test_the_32b_rows(tmp_path):
    samples = answers(0.5, ("math500", "amc23"))
    for name in ("base", "f_gpr_up"):
        write_evaluation(tmp_path / name, samples, facts=facts(endpoint="http://h/v1", model="Qwen2.5-32B"))
    report.run(
        ReportConfig(evaluations=[str(tmp_path / "base"), str(tmp_path / "f_gpr_up")], out=str(tmp_path / "r.html"))
    )
    markdown = (tmp_path / "r.md").read_text("utf-8")
    ours = [label for label in table_of(markdown, "### Table 7") if label.startswith("**")]
    assert [label.split("**")[1] for label in ours] == ["base", "f\\_gpr\\_up"]
    assert not any(label.startswith("**") for label in table_of(markdown, "### Table 4"))


def test_what_was_asked_nothing_of_the_papers_stands_beside_none_of_it(tmp_path):
    groups = {"domain": "gpr", "level": "1"}
    samples = [sample(n, 1, "own_pool", groups={**groups, "level": str(n)}) for n in range(3)]
    folder = write_evaluation(tmp_path / "gpr_up", samples, facts=facts(checkpoint="models/mine"))
    report.run(ReportConfig(evaluations=[str(folder)], out=str(tmp_path / "r.html")))
    markdown = (tmp_path / "r.md").read_text("utf-8")
    assert "None of the paper's benchmarks was asked in our evaluations" in markdown
    assert not any(label.startswith("**") for label in table_of(markdown, "### Table 4"))
    assert "own\\_pool by level" in markdown and "own\\_pool by domain" not in markdown


def test_entries(tmp_path):
    odd = tmp_path / "lr=3 (a)"
    odd.mkdir()
    assert read_entries("runs", ["a=b/c=d", str(odd)]) == [("a", odd.parent.__class__("b/c=d")), ("lr=3 (a)", odd)]
    for wrong in (["=x"], ["a="]):
        with pytest.raises(ConfigError, match="is neither FOLDER nor NAME=FOLDER"):
            read_entries("runs", wrong)
    with pytest.raises(ConfigError, match="two entries are called 'b'"):
        read_entries("evaluations", ["a/b", "b=c"])


def test_the_command_takes_names_and_odd_paths():
    config = resolve("report", ReportConfig, ["runs=[a=x/y (1), z/lr=3]", "evaluations=[base=e]", "out=r.html"])
    assert config.runs == ["a=x/y (1)", "z/lr=3"] and config.evaluations == ["base=e"] and config.run is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, r"run=RUN .* or runs=\[...\]"),
        ({"runs": ["x"]}, "out= is required"),
        ({"runs": ["x"], "out": "r.md"}, "names the Markdown file"),
        ({"runs": ["x"], "run": "y", "out": "r.html"}, "To compare it, give it in runs"),
        ({"runs": ["x"], "out": "r.html", "samples": -1}, "samples=-1 is too small"),
        ({"runs": ["nowhere"], "out": "r.html"}, "nowhere does not exist"),
        ({"evaluations": ["e=nowhere"], "out": "r.html"}, "nowhere does not exist"),
    ],
)
def test_wrong_words(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        report.run(ReportConfig(**words))
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    folder = write_evaluation(tmp_path / "eval", answers(0.5, ("math500",)))
    (folder / "samples.jsonl").write_text('{"benchmark": "math500"}\n')
    with pytest.raises(UserError, match=r"samples.jsonl, line 1, is no judged answer"):
        report.run(ReportConfig(evaluations=[str(folder)], out=str(tmp_path / "r.html")))
    run = with_blend(make_run(tmp_path / "run", steps=2, evaluated=False), "nd")
    (run / "rollouts").mkdir()
    (run / "rollouts/step_000001.jsonl").write_text('{"kind": "math"}\n')
    with pytest.raises(UserError, match=r"step_000001.jsonl does not hold what a run writes there"):
        report.run(ReportConfig(runs=[str(run)], out=str(tmp_path / "r.html")))
    shutil.rmtree(run)
    assert not list(tmp_path.glob("r.*"))


def test_answers_are_shared_out_evenly(world):
    folder, _, _ = world
    evaluations = read_evaluations([], [f"a={folder / 'eval_base'}", f"b={folder / 'eval_few'}"])
    picked = pick_answers([], evaluations, 50)
    counts = [sum(one.origin == name for one in picked) for name in ("a", "b")]
    assert counts == [25, 25]
    topics = [one.topic for one in picked if one.origin == "a"]
    assert max(topics.count(topic) for topic in topics) - min(topics.count(topic) for topic in topics) <= 1
    assert pick_answers([], evaluations, 0) == [] and json.loads(script_data([])) == []
