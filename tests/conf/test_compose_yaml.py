"""A config as a file: what was written is what is read, and what differs is told."""

import copy
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from conf.compose import differences, from_file, from_yaml, resolve, to_yaml
from conf.evaluate import EvalConfig
from conf.prep import PrepConfig, SourceConfig
from conf.train import DemoConfig, TrainConfig
from crossthink.errors import ConfigError

# Any text but U+0085, which PyYAML writes in a way that it reads as a blank.
TEXTS = st.text(
    st.sampled_from("\\${}'\": #\n\t")
    | st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\x85"),
    max_size=20,
)


def same(one, other):
    """Equal but for Hydra's defaults list, which is no setting."""
    one, other = dataclasses.asdict(one), dataclasses.asdict(other)
    one.pop("defaults", None)
    other.pop("defaults", None)
    return one == other


@pytest.mark.parametrize(
    ("command", "schema", "words"),
    [
        ("train", TrainConfig, ["recipe=tiny", "out=x", "reward.url=[http://a:1]", "optimizer.lr=1e-300"]),
        ("train", TrainConfig, ["model=tiny", "out=x", "blend=mcq_up", "data=1e3", "actor.threads=2"]),
        ("prep", PrepConfig, ["out=x", "sources=[math]", "sources.math.path=a=b", "filters.math_levels=[3,4]"]),
        ("eval", EvalConfig, ["out=x", "checkpoint=c", "data=d", "limit=null"]),
    ],
)
def test_round_trip(command, schema, words):
    config = resolve(command, schema, words)
    text = to_yaml(config)
    assert same(from_yaml(schema, text), config)
    assert to_yaml(from_yaml(schema, text)) == text
    assert "defaults" not in text


@given(TEXTS.filter(lambda text: text != "???"), TEXTS, st.floats(allow_nan=False, allow_infinity=False), st.integers())
@settings(deadline=None, max_examples=12)
def test_round_trip_of_any_values(text, other, number, seed):
    config = PrepConfig(out=text, seed=seed, sources={"math": SourceConfig(path=other)})
    config.prompts.folder = other
    assert same(from_yaml(PrepConfig, to_yaml(config)), config)
    config = TrainConfig(out=text, data=other, seed=seed)
    config.optimizer.lr = number
    config.reward.url = [text, other]
    config.blend.weights = {"math": number}
    config.model.name, config.blend.name, config.blend.provenance = "tiny", "x", "ours"
    assert same(from_yaml(TrainConfig, to_yaml(config)), config)


def test_a_demos_run_can_be_read_as_a_training_run():
    demo = resolve("demo", DemoConfig, [])
    assert same(from_yaml(TrainConfig, to_yaml(demo)), demo)


@pytest.mark.parametrize("line", ["stepz: 3", "steps: many", "optimizer:\n  lrr: 1"])
def test_a_file_is_checked_against_the_schema(line):
    with pytest.raises(OmegaConfBaseException):
        from_yaml(TrainConfig, line)


@pytest.mark.parametrize("text", ["stepz: 3", "steps: many", "steps: [", "\xff"])
def test_a_file_of_another_version_is_named(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config.yaml is no TrainConfig of this version \(.+\)"):
        from_file(TrainConfig, path)


@pytest.fixture(scope="module")
def tiny():
    return resolve("train", TrainConfig, ["recipe=tiny", "out=x", "steps=120", "optimizer.lr=1e-4"])


def changed(config, values):
    config = copy.deepcopy(config)
    for key, value in values.items():
        place = config
        *parts, last = key.split(".")
        for part in parts:
            place = getattr(place, part)
        setattr(place, last, value)
    return config


@pytest.mark.parametrize(
    ("values", "ignore", "wanted"),
    [
        ({}, (), []),
        ({"steps": 7}, (), [("steps", 120, 7)]),
        ({"steps": 7}, ("steps",), []),
        ({"optimizer.lr": 1.0, "seed": 1}, (), [("optimizer.lr", 1e-4, 1.0), ("seed", 0, 1)]),
        ({"optimizer.lr": 1.0, "seed": 1}, ("optimizer",), [("seed", 0, 1)]),
        ({"optimizer.lr": 1.0}, ("optimizer.l", "optim"), [("optimizer.lr", 1e-4, 1.0)]),  # whole names only
        ({"reward.url": ["http://a"]}, (), [("reward.url", [], ["http://a"])]),
        ({"data": "d"}, (), [("data", None, "d")]),
        ({"data": "${d"}, ("data",), []),
        # A dictionary is its keys, and an empty one nothing.
        ({"blend.weights": {"b": 1.0, "a": 0.5}}, (),
         [("blend.weights.a", None, 0.5), ("blend.weights.b", None, 1.0)]),
    ],
)  # fmt: skip
def test_differences(tiny, values, ignore, wanted):
    assert differences(tiny, changed(tiny, values), ignore) == wanted
