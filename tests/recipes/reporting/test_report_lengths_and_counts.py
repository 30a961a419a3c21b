"""What the run page makes of evaluations by `crossthink eval`: several runs of a question, boxes without the form."""

import json

import pytest
import yaml
from eval_samples import sample, write_evaluation
from report_helpers import Page, make_run, write_lines
from report_helpers import sample as answer_of_run

from conf.report import ReportConfig
from crossthink.errors import UserError
from recipes import report
from recipes.reporting.page import view
from recipes.reporting.run_data import read_run
from recipes.reporting.statistics import wilson
from recipes.rl.evaluation import summarise


def evaluated(folder, before, after):
    run = make_run(folder, steps=2, evaluated=False)
    for name, samples in (("base", before), ("final", after)):
        write_evaluation(run / "eval" / name, samples)
    return run


def page_of(run):
    report.run(ReportConfig(run=str(run)))
    return Page((run / "report.html").read_text("utf-8")).text


def unformed(number):
    """A right box in the wrong form, so R is 0; long, as such answers are."""
    one = sample(number, 1, tokens=100, status="bad_format")
    one["verdict"] |= {"reward": 0.0, "format": 0}
    return one


def test_lengths_are_of_right_boxes_and_say_so(tmp_path):
    before = [unformed(n) for n in range(7)] + [sample(7, 0, tokens=30)]
    after = [sample(n, 1, tokens=10) for n in range(6)] + [sample(6, 0, tokens=30), sample(7, 0, tokens=None)]
    text = page_of(evaluated(tmp_path / "run", before, after))
    assert "Right means the last box holds the right answer, whatever the form." in text and "means R = 1" not in text
    assert "all 100.0 of 7 10.0 of 6 30.0 of 1 30.0 of 1" in text


def run_with_shaped_rewards(folder, left_out=()):
    """Three right answers of nine; the six wrong ones have credit for their form, and mean reward × 9 is 5."""
    run = make_run(folder, steps=2, evaluated=False)
    rows = [answer_of_run(n, right=n < 3, tokens=20 if n < 3 else 8) for n in range(9)]
    for row in rows[3:]:
        row["verdict"]["reward"] = 1 / 3
    summary = {key: value for key, value in summarise(rows).items() if key not in left_out}
    write_lines(run / "evaluations.jsonl", [{"step": 2, **summary}])
    return run


def test_lengths_inside_a_run_are_by_the_verdict(tmp_path):
    text = page_of(run_with_shaped_rewards(tmp_path / "run"))
    assert "Right means R = 1 (unshaped)." in text and "all – 20.0 of 3 – 8.0 of 6" in text


def test_of_earlier_versions_only_unshaped_rewards_tell_counts(tmp_path):
    run = make_run(tmp_path / "plain", steps=2, evaluated=False)
    summary = summarise([answer_of_run(n, right=n < 4, formed=n < 3, tokens=20 if n < 3 else 8) for n in range(9)])
    del summary["right"], summary["wrong"]
    write_lines(run / "evaluations.jsonl", [{"step": 2, **summary}])
    assert "all – 20.0 of 3 – 8.0 of 6" in page_of(run)
    write_lines(run / "evaluations.jsonl", [{"step": 2, **summary, "reward": 0.7 * summary["reward"]}])
    assert "all – 20.0 – 8.0" in page_of(run), "a mean of shaped rewards is no count"
    run = run_with_shaped_rewards(tmp_path / "shaped", left_out=("right", "wrong"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["reward"]["shaping"]["format_credit"] = 1 / 3
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    scores = read_run(run).after.all
    assert (scores.count_right, scores.count_wrong, scores.tokens_right, scores.tokens_wrong) == (None,) * 4


def test_two_measures_of_right_are_told_apart(tmp_path):
    run = make_run(tmp_path / "run", steps=2, evaluated=False)
    write_lines(run / "evaluations.jsonl", [{"step": 0, **summarise([answer_of_run(1, True)])}])
    write_evaluation(run / "eval/final", [sample(1)])
    assert (
        "R = 1 (unshaped) before training, and the last box holds the right answer, whatever the form after it"
        in page_of(run)
    )


@pytest.mark.parametrize("bad", [3, 8, 20])
def test_several_runs_count_answers_and_questions_apart(tmp_path, bad):
    samples = [sample(n, None if n < bad else n % 2, run=run) for n in range(20) for run in range(3)]
    run = evaluated(tmp_path / "run", samples, samples)
    scores = read_run(run).after.all
    assert (scores.questions, scores.judged, scores.answers, scores.invalid) == (20, 20 - bad, 60, 3 * bad)
    assert scores.interval("reward") == (wilson(scores.reward, 20 - bad) if bad < 20 else None)
    assert f"{3 * bad} of 60 answers after training could not be judged" in page_of(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": "many"}, "steps=many is not a whole number"),
        ({"prompts_per_step": 1.5}, "prompts_per_step=1.5 is not a whole number"),
        ({"actor": "x"}, "actor=x is not a group of keys"),
        ({"actor": {"data_parallel": "two"}}, "actor.data_parallel=two is not a whole number"),
        ({"reward": [1]}, "reward=[1] is not a group of keys"),
        ({"recipe": ["a"]}, "recipe=['a'] is not a name"),
        ({"blend": ["nd"]}, "blend=['nd'] is not a name or a group of keys"),
        ({"blend": {"name": ["nd"]}}, "blend.name=['nd'] is not a name"),
    ],
)
def test_a_config_of_other_types_is_named(tmp_path, change, said):
    run = make_run(tmp_path / "run", steps=2)
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    for config in (ReportConfig(run=str(run)), ReportConfig(runs=[str(run)], out=str(tmp_path / "r.html"))):
        with pytest.raises(UserError) as caught:
            report.run(config)
        assert str(caught.value) == f"{path} does not hold what a run writes there: {said}."


def test_a_config_of_another_version_is_shown_as_it_stands(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    (run / "config.yaml").write_text("{steps: null, actor: null, blend: nd, model: [1], later: {key: 1}}")
    assert view(read_run(run))["steps_planned"] is None and "later" in page_of(run)


def test_an_evaluation_of_the_first_release_has_asked_once(tmp_path):
    def change(before, after):
        after[0]["verdict"] = {**after[0]["verdict"], "reward": None, "accuracy": None}

    run = make_run(tmp_path / "run", steps=2, change=change)
    assert "judged" not in json.loads((run / "eval/final/summary.json").read_text())
    scores = read_run(run).after.all
    assert (scores.judged, scores.answers, scores.invalid) == (59, 60, 1)
    assert scores.count_right + scores.count_wrong == 59
