"""The report page: right numbers, whole HTML, nothing fetched, from any state of a run folder."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from report_helpers import NASTY, Page, make_run, metrics, sample, write_lines

from conf.report import ReportConfig
from crossthink.errors import ConfigError, UserError
from recipes import report
from recipes.reporting import text as words
from recipes.reporting.examples import pick_examples
from recipes.reporting.facts import facts
from recipes.reporting.page import Flips
from recipes.reporting.run_data import read_run
from recipes.reporting.statistics import wilson
from recipes.rl.evaluation import summarise


def page_of(folder):
    report.run(ReportConfig(run=str(folder)))
    text = (folder / "report.html").read_text("utf-8")
    return text, Page(text)


def test_a_complete_run(tmp_path):
    text, page = page_of(make_run(tmp_path / "run"))
    before = json.loads((tmp_path / "run/eval/base/summary.json").read_text())
    after = json.loads((tmp_path / "run/eval/final/summary.json").read_text())
    gain = after["reward"] - before["reward"]
    assert f"{100 * before['reward']:.1f} % → {100 * after['reward']:.1f} %" in page.text
    assert f"up from {100 * before['reward']:.1f} % before training (+{100 * gain:.1f} points" in page.text
    assert f"{100 * before['answer_accuracy']:.1f} % → {100 * after['answer_accuracy']:.1f} %" in page.text
    assert "After 40 training steps" in page.text and "2 min 3 s" in page.text and "1 min 20 s" in page.text
    for group in ("by_domain", "by_kind", "by_source"):
        for name, values in after[group].items():
            low, high = wilson(values["reward"], values["questions"])
            row = f"{words.NAMES.get(name, name) if group != 'by_source' else name} {values['questions']} "
            shares = [f"{100 * side[group][name]['reward']:.1f} %" for side in (before, after)]
            found = page.text[page.text.index(row) :][: len(row) + 80]
            assert shares[0] in found and f"{shares[1]} {100 * low:.1f} to {100 * high:.1f}" in found
    assert f"{after['tokens_right']:.1f} of {round(after['reward'] * 60)}" in page.text
    assert "0123456789ab" in page.text and "c" * 64 in page.text and "2.13.0" in page.text
    assert "0.300 s" in page.text and "12.0 s 15.0 %" in page.text  # log_probs: 40 steps of 0.3 of 2 seconds
    assert page.tags.count("svg") == 12


def test_how_well_the_machine_was_used(tmp_path):
    _, page = page_of(make_run(tmp_path / "run"))
    assert "utilisation of the train phase: 30.0 %. 2.1 % of the trained positions were padding." in page.text
    assert "Peak memory of a rank: 640 MB." in page.text


def test_it_fetches_nothing_and_ids_are_unique(tmp_path):
    text, page = page_of(make_run(tmp_path / "run"))
    assert page.references and all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert not re.search(r"@import|url\((?!#)", text) and "script" not in page.tags and "link" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert "s3cret" not in text and "(hidden)" in text


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = make_run(tmp_path / "run")
    one, other = page_of(run)[0], page_of(run)[0]
    assert one == other
    for name in ("one", "other"):
        report.result_plot(run, tmp_path / f"{name}.png")
    picture = (tmp_path / "one.png").read_bytes()
    assert picture == (tmp_path / "other.png").read_bytes() and picture.startswith(b"\x89PNG")


def test_the_interval_of_the_gain_is_that_of_the_paired_differences():
    gained = Flips(count=200, won=70, lost=20, right=60, wrong=50)
    spread = math.sqrt(90 / 200 - 0.25**2)
    expected = (0.25 - 1.96 * spread / math.sqrt(200), 0.25 + 1.96 * spread / math.sqrt(200))
    assert gained.interval == pytest.approx(expected, abs=0.01)
    assert Flips(5, 5, 0, 0, 0).interval == (1.0, 1.0)  # every difference is the same: no spread


def test_without_evaluations(tmp_path):
    run = make_run(tmp_path / "run", evaluated=False)
    _, page = page_of(run)
    assert "No evaluation on held-out questions in this run folder" in page.text and "– → –" in page.text
    first, last = (sum(0.2 + 0.5 * s / 50 for s in steps) / 10 for steps in (range(1, 11), range(31, 41)))
    assert f"from {100 * first:.1f} % (first 10 steps) to {100 * last:.1f} % (last 10)" in page.text
    report.result_plot(run, tmp_path / "plot.png")


def test_one_step_and_no_step(tmp_path):
    _, page = page_of(make_run(tmp_path / "one", steps=1))
    assert "After 1 training step the policy" in page.text
    _, page = page_of(make_run(tmp_path / "one_bare", steps=1, evaluated=False))
    assert "One training step, mean R 21.0 %" in page.text
    run = make_run(tmp_path / "none", evaluated=False)
    for name in ("metrics.jsonl", "manifest.json"):
        (run / name).unlink()
    _, page = page_of(run)
    assert "No training step is finished" in page.text and "0 of 40 planned steps" in page.text
    report.result_plot(run, tmp_path / "plot.png")


def test_only_the_first_evaluation(tmp_path):
    run = make_run(tmp_path / "run", steps=12)
    for name in ("samples.jsonl", "summary.json"):
        (run / "eval/final" / name).unlink()
    _, page = page_of(run)
    assert "No evaluation after training" in page.text and "% → –" in page.text


def test_evaluations_inside_a_training_run(tmp_path):
    run = make_run(tmp_path / "run", evaluated=False)
    rows = {step: [sample(i, right=i < step) for i in range(60)] for step in (0, 20, 40)}
    write_lines(run / "evaluations.jsonl", [{"step": step, **summarise(some)} for step, some in rows.items()])
    _, page = page_of(run)
    assert "0.0 % → 66.7 %" in page.text and "not comparable with different" not in page.text


def test_text_is_escaped_and_invisible_characters_are_shown(tmp_path):
    def change(before, after):
        for row in (*before[:3], *after[:3]):
            row["question"] = row["response"] = NASTY
        for row in (*before[3:], *after[3:]):
            row["verdict"] = {**row["verdict"], "reward": 0.0}
        after[2]["source"] = before[2]["source"] = "<b>source</b>"

    text, page = page_of(make_run(tmp_path / "run", change=change))
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "␀‹U+202E›‹U+D800›" in page.text and "\x00" not in text and "\u202e" not in text
    assert "<b>source" not in text


def test_examples_turned_right_and_of_different_kinds(tmp_path):
    data = read_run(make_run(tmp_path / "run"))
    chosen = pick_examples(data)
    assert {data.after_answers[ident].kind for ident in chosen} == {"mcq", "open", "math"}
    assert all(data.rewards()[ident] == (0, 1) for ident in chosen)
    assert chosen == pick_examples(data)
    worse = {ident: replace(answer, reward=0.0) for ident, answer in data.after_answers.items()}
    data = replace(data, after_answers=worse)
    chosen = pick_examples(data)
    assert len(chosen) == 3 and all(data.rewards()[ident] == (0, 0) for ident in chosen)


def test_what_a_reader_must_know(tmp_path):
    def change(before, after):
        after[0]["verdict"] = {**after[0]["verdict"], "reward": None, "accuracy": None, "status": "error"}

    run = make_run(tmp_path / "run", change=change)
    path = run / "eval/final/summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rules_hash": "ba9876543210", "also_in_training": 7}))
    lines = [metrics(step) for step in (1, 2)]
    lines[1]["grad_norm"] = math.nan
    write_lines(run / "metrics.jsonl", lines)
    _, page = page_of(run)
    assert "1 of 60 answers after training could not be judged" in page.text
    assert "different reward rules (0123456789ab, ba9876543210): not comparable" in page.text
    assert "7 of the questions also stand in the training pool" in page.text
    assert "grad_norm is not a finite number in 1 steps, first in step 2" in page.text
    assert "2 of 40 planned steps" in page.text


def test_words_for_numbers():
    assert words.pct(None) == words.points(None) == words.number(None) == words.duration(None) == "–"
    assert words.points(-0.0312) == "−3.1" and words.points(0.00001) == "0.0" and words.pct(0.1234) == "12.3 %"
    assert words.duration(59.94) == "59.9 s" and words.duration(59.96) == "1 min 0 s"
    assert words.duration(3720) == "1 h 2 min"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", '{"loss": 1.0}\n'),
        ("metrics.jsonl", "[1]\n"),
        ("evaluations.jsonl", '{"questions": 3}\n'),
        ("eval/base/summary.json", '{"reward": 0.5}'),
        ("eval/base/summary.json", '{"questions": 3, "by_domain": {"math": 0.5}}'),
        ("eval/final/samples.jsonl", '{"prompt_id": "1"}\n'),
        ("manifest.json", '{"packages": 3}'),
        ("report.json", "[]"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, name, text):
    run = make_run(tmp_path / "run", steps=2)
    (run / name).write_text(text)
    with pytest.raises(UserError, match=rf"{re.escape(name)} does not hold what a run writes there"):
        read_run(run)


def test_the_machine_is_told(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    assert facts(read_run(run))[-1][0] == "CPU cores of the machine that wrote this page"
    manifest = json.loads((run / "manifest.json").read_text())
    machine = {"cpu_count": 8, "memory_gb": 33.6, "platform": "Linux-6", "cpu": "A Chip", "gpus": []}
    for change, told in (
        ({"gpus": ["G", "G"]}, "8 CPU cores (A Chip) · 33.6 GB memory · 2 × G · Linux-6"),
        ({"cpu": None}, "8 CPU cores · 33.6 GB memory · no GPU · Linux-6"),
        ({}, "8 CPU cores (A Chip) · 33.6 GB memory · no GPU · Linux-6"),
    ):
        (run / "manifest.json").write_text(json.dumps({**manifest, "machine": {**machine, **change}}))
        assert facts(read_run(run))[-1] == ("Machine that the run began on", told)
    assert f"Machine that the run began on {told}" in page_of(run)[1].text


def test_no_torch_is_needed(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        f"from recipes.cli import main; sys.exit(main(['report', 'run={run}']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere does not exist.*crossthink train"):
        report.run(ReportConfig(run=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match=r"not a run folder: it holds no config\.yaml"):
        report.run(ReportConfig(run=str(tmp_path)))
    run = make_run(tmp_path / "run", steps=1, evaluated=False)
    with pytest.raises(ConfigError, match="is a folder"):
        report.run(ReportConfig(run=str(run), out=str(tmp_path)))
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read as JSON lines: line 2: .* Mend or remove it"):
        report.run(ReportConfig(run=str(run)))


def test_out_elsewhere_leaves_the_run_alone(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    report.run(ReportConfig(run=str(run), out=str(tmp_path / "pages/one.html")))
    assert (tmp_path / "pages/one.html").is_file() and not (run / "report.html").exists()
