"""The list of config keys that NeMo, NeMo-Aligner and megatron-core know, and how it is read from their sources."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.actors.aligner.key_reads import argument_keys, config_reads, dataclass_keys, literal_keys, yaml_keys
from recipes.actors.aligner.known_keys import LIST, OPTIMIZER, known_keys, unknown
from recipes.actors.aligner.list_keys import SOURCES

ROOTS = {"cfg": "model", "self.cfg": "model", "whole": ""}

READS = """
def build(self, cfg, other):
    a = self.cfg.a
    b = cfg["b"]
    c = cfg.get("c", 1) + cfg.deep.get("d")
    if "e" in self.cfg and hasattr(cfg, "f"):
        part = cfg.get("part", {})
        g = part.g
    h = getattr(cfg.tok, "h", None)
    i = argument("i")
    j = (cfg.get("maybe", {}) or {}).get("j")
    plain = OmegaConf.to_container(self.cfg, resolve=True)
    k = plain["k"]
    whole.trainer.l
    cfg.written = 1
    other.not_a_key
    cfg.name.lower()


def passed_over(cfg):
    cfg.of_something_else


def scoped(part):
    part.not_an_alias
"""


def test_every_way_of_reading_a_key_is_found_with_its_line() -> None:
    found = config_reads(READS, ROOTS, {"argument": "model.optim"}, skip=("passed_over",))
    assert found == {
        "model.a": 3, "model.b": 4, "model.c": 5, "model.deep": 5, "model.deep.d": 5, "model.e": 6, "model.f": 6,
        "model.part": 7, "model.part.g": 8, "model.tok": 9, "model.tok.h": 9, "model.optim.i": 10, "model.maybe": 11,
        "model.maybe.j": 11, "model.k": 13, "trainer": 14, "trainer.l": 14, "model.name": 17,
    }  # fmt: skip


def test_a_name_that_is_assigned_something_else_is_no_config_any_more() -> None:
    code = "def f(cfg):\n    part = cfg.part\n    part = 3\n    part.x\n"
    assert config_reads(code, ROOTS, {}) == {"model.part": 2}


def test_fields_of_dataclasses_come_with_bases_and_nested_ones() -> None:
    code = (
        "class Base:\n    a: int = 1\n    _own: int = 0\n\n"
        "class Part:\n    p: int = 1\n\n"
        "class Whole(Base):\n    b: Optional[Part] = None\n    c: int = 2\n"
    )
    assert dataclass_keys(code, "Whole", "x", skip=("c",)) == {"x.a": 2, "x.b": 9, "x.b.p": 6}


def test_arguments_of_a_constructor_are_keys() -> None:
    code = "class Adam:\n    def __init__(self, params, lr=1e-3, *, eps=1e-8):\n        pass\n"
    assert argument_keys(code, "Adam", "o", skip=("params",)) == {"o.lr": 2, "o.eps": 2}


def test_a_computed_dictionary_gives_its_keys() -> None:
    code = "def build(self):\n    mapping = {'fp8': None, 'bias': self.bias}\n"
    assert literal_keys(code, "build", "mapping") == {"fp8", "bias"}
    with pytest.raises(ValueError, match="no dictionary named other"):
        literal_keys(code, "build", "other")


def test_yaml_keys_have_their_lines() -> None:
    text = "model:\n  optim:\n    lr: 1e-6\n    betas:\n    - 0.9\nseed: ${.x}\n"
    assert yaml_keys(text) == {"model": 1, "model.optim": 2, "model.optim.lr": 3, "model.optim.betas": 4, "seed": 6}


def test_the_list_states_its_sources_and_is_sorted() -> None:
    listed = json.loads(LIST.read_text("utf-8"))
    assert {name: facts["repository"] for name, facts in listed["sources"].items()} == {
        name: source.repository for name, source in SOURCES.items()
    }
    assert all(len(facts["commit"]) == 40 for facts in listed["sources"].values())
    assert list(listed["keys"]) == sorted(listed["keys"])
    for key, places in listed["keys"].items():
        assert key.endswith(".*") or places
        assert all(place.split(":")[0] in SOURCES and place.split(":")[2].isdigit() for place in places.split())


def test_keys_that_the_engines_live_by_are_known() -> None:
    config = {
        "trainer": {"num_nodes": 4, "reinforce": {"trt_llm": {"enable": False}}},
        "exp_manager": {"checkpoint_callback_params": {"save_top_k": 1}, "wandb_logger_kwargs": {"anything": 1}},
        "model": {
            "tensor_model_parallel_size": 4, "sequence_parallel": True, "fp8": True, "fp8_hybrid": True,
            "fp8_amax_history_len": 1024, "qk_layernorm": False, "mcore_customization_config": {"x": {"y": 1}},
            "optim": {"name": "distributed_fused_adam", "bucket_cap_mb": 200, "sched": {"warmup_steps": 0}},
        },
    }  # fmt: skip
    assert unknown(config) == []
    assert unknown(config["model"], "model") == []


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model": {"sequnce_parallel": True}}, "model.sequnce_parallel"),
        ({"model": {"optim": {"name": "distributed_fused_adam", "bucket_cap_md": 1}}}, "model.optim.bucket_cap_md"),
        ({"trainer": {"num_node": 1}}, "trainer.num_node"),
        # NeMo computes it from bias, whatever the config says.
        ({"model": {"add_bias_linear": False}}, "model.add_bias_linear"),
        # megatron-core's optimizer gets no such argument from NeMo.
        ({"model": {"optim": {"name": "mcore_distributed_optim", "bucket_cap_mb": 1}}}, "model.optim.bucket_cap_mb"),
    ],
)
def test_a_key_that_nobody_reads_is_named(config: dict, key: str) -> None:
    assert unknown(config) == [key]


def test_below_an_unknown_section_nothing_more_is_told() -> None:
    assert unknown({"model": {"optimizer": {"lr": 1, "name": "adam"}}}) == ["model.optimizer"]


@given(st.sampled_from(sorted(key for key in known_keys() if "@" not in key and not key.endswith("*"))), st.data())
def test_any_known_key_passes_and_with_a_letter_less_it_does_not(key: str, data: st.DataObject) -> None:
    assert unknown(_nested(key)) == []
    place = data.draw(st.integers(key.rfind(".") + 1, len(key) - 1))
    shorter = key[:place] + key[place + 1 :]
    below_open = any(shorter.startswith(name.removesuffix("*")) for name in known_keys() if name.endswith(".*"))
    if shorter not in known_keys() and not shorter.endswith(".") and not below_open:
        assert unknown(_nested(shorter)) == [shorter]


@pytest.mark.parametrize("key", sorted(key for key in known_keys() if "@" in key))
def test_arguments_of_an_optimizer_are_known_with_it(key: str) -> None:
    optimizer, _, word = key.removeprefix(f"{OPTIMIZER}@").partition(".")
    assert unknown({"model": {"optim": {"name": optimizer, word: None}}}) == []


def _nested(key: str) -> dict:
    *sections, last = key.split(".")
    config: dict = {last: None}
    for name in reversed(sections):
        config = {name: config}
    return config
