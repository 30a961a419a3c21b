"""What the study is made on, and how its arms are wired."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from conf.ablations import BLENDS, SOURCES
from conf.blend import load_blend
from conf.compose import resolve
from conf.sweep import StudyConfig, SweepConfig
from crossthink.errors import ConfigError, StoppedEarly
from data_prep.blends import blend_weights
from data_prep.pool import Pool
from recipes import sweep
from recipes.sweeping.arms import FILTERED, SINGLES, STUDY_ARMS, chosen_arms
from recipes.sweeping.study import DATA, MARKED, SCORES, Study
from recipes.sweeping.study_data import HELD_OUT, SHOWN, WORKED, in_form, make_data
from recipes.sweeping.study_data import SOURCES as ROWS

CHOICE = {
    "source": "syn_qa", "question": "What is 1+2?", "answer": "B", "steps": "1+2=3 B", "slip_answer": "C",
    "slip_steps": "1+2=3 B, next C", "options": ["7", "3", "5", "9"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    make_data(out / DATA, StudyConfig(train_rows=60, held_out_rows=10))
    for seed in (0, 1):  # a policy is only named here, and a filtered pool only has to be there
        (out / "base" / f"seed_{seed}" / "model").mkdir(parents=True)
        (out / MARKED / f"seed_{seed}" / "pool").mkdir(parents=True)
    return out


@pytest.fixture
def study(folder, monkeypatch):
    (folder / SCORES).unlink(missing_ok=True)
    config = resolve("sweep", SweepConfig, ["recipe=study", f"out={folder}", "seeds=[0,1]", "study.steps=7"])
    return Study(config)


def give_scores(folder, scores):
    (folder / SCORES).write_text(json.dumps({"scores": scores}))


def test_pools_of_three_templates_and_one_that_is_asked(folder):
    pools = {name: Pool.open(folder / DATA / name) for name in ("mixed", "open", "short", HELD_OUT)}
    assert pools["mixed"].groups["syn_qa"] == ("gpr", "mcq") and pools["open"].groups["syn_qa"] == ("gpr", "open")
    long, short = (next(pools[name].rows("syn_qa")) for name in ("mixed", "short"))
    assert long.ground_truth == [f"{short.ground_truth[0]}. {long.options[short.ground_truth[0]]}"]
    assert all(set(pool.counts) == set(SOURCES) for pool in pools.values())
    assert len(pools[HELD_OUT]) == 60 and all(len(one.ground_truth[0]) == 1 for one in pools[HELD_OUT].rows("syn_qa"))
    assert pools["mixed"].manifest["config"]["answer_template"] == "long"


def test_no_two_blends_are_the_same_on_the_pool(folder):
    pool = Pool.open(folder / DATA / "mixed")
    blends = [load_blend(name) for name in BLENDS if name != "score"]
    shares = [blend_weights(pool.counts, pool.groups, blend, "pool") for blend in blends]
    for at, one in enumerate(shares):
        for other in shares[:at]:
            gaps = [abs(one.get(name, 0) - other.get(name, 0)) for name in SOURCES]
            assert sum(gaps) > Fraction(1, 10)


def test_worked_examples_stand_in_the_pool_that_is_shown(folder):
    from recipes.warm_start import read_worked

    lines = (folder / DATA / WORKED).read_text().splitlines()
    assert len(lines) == len((folder / DATA / ROWS / WORKED).read_text().splitlines())
    worked = read_worked(Pool.open(folder / DATA / SHOWN), folder / DATA / WORKED)
    numbers = [one for one in worked if one.row.domain == "math"]
    assert len(numbers) == sum(Pool.open(folder / DATA / "mixed").counts[name] for name in SOURCES[3:])
    choices = [one for one in worked if one.row.source == "mmlu_train"]
    forms = {(one.row.kind, ". " in one.answer) for one in choices}
    assert forms == {("mcq", False), ("mcq", True), ("open", False)}
    for one in choices:
        assert one.answer in (one.row.ground_truth[0], one.row.ground_truth[0][0])


def test_forms_of_a_worked_example():
    assert in_form(CHOICE, 0) == CHOICE
    long, opened = in_form(CHOICE, 1), in_form(CHOICE, 2)
    assert (long["answer"], long["slip_answer"], long["steps"]) == ("B. 3", "C. 5", "1+2=3 B")
    assert (opened["answer"], opened["slip_answer"], opened["options"]) == ("3", "5", None)
    assert (opened["steps"], opened["slip_steps"]) == ("1+2=3", "1+2=3, next 5")
    number = {**CHOICE, "options": None}
    assert all(in_form(number, at) == number for at in range(3))


def test_all_arms_of_both_seeds_are_planned(folder, study):
    give_scores(folder, dict.fromkeys(SOURCES, 0.25))
    runs = study.runs(list(STUDY_ARMS))
    assert len(runs) == 22 and not study.unfinished
    assert len({one.out for one in runs}) == 22
    for one in runs:
        assert one.config.steps == 7 and one.config.seed == one.seed and one.config.reward.match == "exact"
        assert one.config.model.path == str(folder / "base" / f"seed_{one.seed}" / "model")
        assert one.config.actor.threads == 1 and one.config.recipe == "tiny"
    data = {one.arm.name: one.config.data for one in runs if one.seed == 1}
    assert data["nd"] == data["gpr_up"] == str(folder / DATA / "mixed")
    assert (data["open"], data["short"]) == (str(folder / DATA / "open"), str(folder / DATA / "short"))
    assert data["filtered"] == str(folder / MARKED / "seed_1" / "pool")


def test_the_scores_weigh_the_arm_score(folder, study):
    scores = {source: (at + 1) / 100 for at, source in enumerate(SOURCES)}
    give_scores(folder, scores)
    runs = {one.arm.name: one for one in study.runs(list(STUDY_ARMS)) if one.seed == 0}
    pool = Pool.open(folder / DATA / "mixed")
    shares = blend_weights(pool.counts, pool.groups, runs["score"].config.blend, "pool")
    assert shares == {source: Fraction(at + 1, 21) for at, source in enumerate(SOURCES)}
    assert not runs["nd"].config.blend.scores


def test_without_scores_their_arm_is_named_and_left_out(study):
    runs = study.runs(chosen_arms("study", ["nd", "score"]))
    assert {one.arm.name for one in runs} == {"nd"}
    assert "single-source" in study.unfinished["score"]


def test_without_a_filtered_pool_its_arm_is_named_and_left_out(tmp_path, study):
    study.config.out = str(tmp_path)
    assert study.runs([arm for arm in STUDY_ARMS if arm.pool == FILTERED]) == []
    assert set(study.unfinished) == {"filtered/seed_0", "filtered/seed_1"}


def test_the_open_arm_draws_in_its_counterparts_proportions(folder, study):
    mixed, opened = (Pool.open(folder / DATA / name) for name in ("mixed", "open"))
    assert opened.counts["syn_qa"] < mixed.counts["syn_qa"]
    one, other = (study.runs(chosen_arms("study", [name]))[0].config.blend for name in ("open", "nd"))
    assert blend_weights(opened.counts, opened.groups, one, "pool") == blend_weights(
        mixed.counts, mixed.groups, other, "pool"
    )


def test_single_source_runs_are_of_the_first_seed_and_short(study):
    runs = study._singles()
    assert [one.arm for one in runs] == list(SINGLES)
    assert {(one.seed, one.config.steps) for one in runs} == {(0, study.config.study.single_steps)}
    assert [list(one.config.blend.weights) for one in runs] == [[source] for source in SOURCES]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=x"], "data=x: recipe=study makes its own"),
        (["eval.data=x"], "makes its own questions"),
        (["study.steps=0"], "study.steps=0 is too small"),
        (["seeds=[1,1]"], "seeds="),
        (["parallel=0"], "parallel=0 is too small"),
        (["arms=[ndd]"], "'ndd' is no arm.*Did you mean 'nd'"),
        (["arm_words=['ndd:steps=1']"], "'ndd' is no arm"),
        (["words=[steps]"], "arm nd: .*steps"),
        (["arm_words=['short:blend.wieghts={}']"], "arm short: .*Did you mean"),
        (["recipe=ablation_blends"], "data= is required"),
        (["recipe=ablation_blends", "data=x"], "eval.data= .* is required"),
    ],
)
def test_refusals(tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        sweep.run(resolve("sweep", SweepConfig, ["recipe=study", f"out={tmp_path / 'x'}", *words]))
    assert not (tmp_path / "x").exists()


def test_a_wish_to_stop_is_heard_amid_a_warm_start(folder, tmp_path):
    (tmp_path / DATA).symlink_to(folder / DATA)
    config = resolve("sweep", SweepConfig, ["recipe=study", f"out={tmp_path}", "study.warm_start_steps=1000"])
    asked = []
    with pytest.raises(StoppedEarly, match="resume=true"):
        Study(config).make(list(STUDY_ARMS), lambda: len(asked) > 3 or asked.append("no"), print)
    assert len(asked) == 4 and not (tmp_path / "base" / "seed_0" / "model").exists()
