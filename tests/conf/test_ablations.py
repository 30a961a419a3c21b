"""The ablations of Tables 3, 5 and 6: what each preset sets, for preparing and for training."""

import pytest

from conf.ablations import ABLATIONS, SOURCES
from conf.blend import shipped_blends
from conf.compose import options, resolve
from conf.prep import PrepConfig
from conf.sweep import SweepConfig
from conf.train import DemoConfig, TrainConfig
from crossthink.errors import ConfigError
from recipes.cli import main

GPR = ["mmlu_train", "syn_qa", "natural_reasoning"]
TEMPLATES = {
    "table5_open": ("open", "long"),
    "table5_mixed": ("mixed", "long"),
    "table6_short": ("mixed", "short"),
    "table6_long": ("mixed", "long"),
}


def prep(*words):
    return resolve("prep", PrepConfig, ["out=pool", *words])


def train(*words):
    return resolve("train", TrainConfig, ["model=tiny", *words])


def test_the_recipes_of_each_command():
    assert set(SOURCES) == set(options("sources"))
    names = sorted([*TEMPLATES, *(f"table3_{source}" for source in SOURCES)])
    assert sorted(ABLATIONS) == options("recipe", PrepConfig) == names
    assert options("recipe", TrainConfig) == ["crossthink_32b", "crossthink_7b", *names, "tiny"]
    assert options("recipe", DemoConfig) == ["tiny"]
    # Generated names beside those of the files, and no file is hidden by one.
    assert set(options("blend")) == {*shipped_blends(), *(f"single_{source}" for source in SOURCES)}
    assert len(options("blend")) == len(shipped_blends()) + 6


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_alone(source):
    made = prep(f"recipe=table3_{source}")
    assert list(made.sources) == [source]
    assert (made.question_template, made.answer_template) == ("mixed", "long")
    config = train(f"recipe=table3_{source}")
    assert (config.steps, config.blend.weights, config.pool_templates) == (250, {source: 1.0}, {})
    assert (config.blend.name, config.blend.by) == (f"single_{source}", "source")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_compared(name):
    made, config = prep(f"recipe={name}"), train(f"recipe={name}")
    assert (made.question_template, made.answer_template) == TEMPLATES[name]
    assert list(made.sources) == (GPR if name.startswith("table6") else list(SOURCES))
    assert (config.steps, config.blend.name) == (650, "only_gpr" if name.startswith("table6") else "nd")
    # What training insists on is what preparing does, so the one's pool is always fit for the other.
    assert config.pool_templates and config.pool_templates.items() <= vars(made).items()


def test_two_arms_of_a_table_differ_in_their_template_alone():
    for arms in (("table5_open", "table5_mixed"), ("table6_short", "table6_long")):
        one, other = (train(f"recipe={name}") for name in arms)
        assert one.pool_templates != other.pool_templates
        for config in (one, other):
            config.pool_templates, config.recipe, config.out = {}, None, "x"
        assert one == other


@pytest.mark.parametrize("words", [["recipe=table3_math", "{}"], ["{}", "recipe=table3_math"]])
def test_a_word_of_ones_own_beats_an_ablation(words):
    def given(command, word):
        return command(*(one.format(word) for one in words))

    assert given(train, "steps=3").steps == 3
    assert given(train, "out=mine").out == "mine"
    assert given(train, "blend=nd").blend.weights == {}
    assert given(train, "blend.weights={syn_qa:1}").blend.weights == {"syn_qa": 1.0}
    assert given(train, "pool_templates={answer_template:short}").pool_templates == {"answer_template": "short"}
    assert list(given(prep, "sources=[syn_qa]").sources) == ["syn_qa"]
    assert given(prep, "answer_template=short").answer_template == "short"
    assert given(prep, "sources.math.path=a=b").sources["math"].path == "a=b"


def test_the_same_name_means_its_own_to_each_command():
    for _ in range(2):
        assert train("recipe=table5_open").blend.name == "nd"
        assert prep("recipe=table5_open").question_template == "open"


def test_an_ablation_needs_no_more_than_model_and_data(capsys, tmp_path):
    assert main(["train", "recipe=table3_math", "--cfg", f"model={tmp_path}", f"data={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "\nsteps: 250\n" in out and "\nrecipe: table3_math\n" in out and "name: single_math\n" in out
    assert out.startswith("out: runs/table3_math\n")
    assert main(["train", "recipe=table3_maths", "model=tiny"]) == 2
    assert "Did you mean 'table3_math'?" in capsys.readouterr().err


def test_the_recipes_of_a_sweep():
    study = resolve("sweep", SweepConfig, ["recipe=study"])
    assert (study.out, study.seeds, study.parallel, study.threads) == ("runs/study", [0, 1, 2], 2, 1)
    assert resolve("sweep", SweepConfig, ["recipe=study", "seeds=[5]", "out=mine"]).seeds == [5]
    blends = resolve("sweep", SweepConfig, ["recipe=ablation_blends", "out=x", "cluster=bare", "cluster.time=01:00:00"])
    assert (blends.recipe, blends.cluster.name, blends.cluster.time) == ("ablation_blends", "bare", "01:00:00")
    assert resolve("sweep", SweepConfig, ["recipe=study"]).cluster.name == ""
    with pytest.raises(ConfigError, match="recipe=table3_math does not exist. Allowed: ablation_blends, study"):
        resolve("sweep", SweepConfig, ["recipe=table3_math", "out=x"])
