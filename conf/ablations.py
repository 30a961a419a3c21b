"""The ablations of the paper's Tables 3, 5 and 6: one definition, from which `recipe=NAME` of prep and train follows.

`crossthink prep recipe=NAME` makes the pool that `crossthink train recipe=NAME` wants. The recipes of `sweep`, which
train several of them, stand here too. Hydra knows the presets from its ConfigStore (`register`); the files of
conf/recipe and conf/blend are beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from conf.prep import PrepConfig
from conf.sweep import SweepConfig
from conf.train import DemoConfig, TrainConfig

GPR = ("mmlu_train", "syn_qa", "natural_reasoning")
SOURCES = (*GPR, "numina_math", "personaskill_math", "math")  # the six of Table 1
BLENDS = ("nd", "mr_up", "gpr_up", "mcq_up", "open_up", "score", "only_mr", "only_gpr")  # the eight of Table 4


@dataclass(frozen=True)
class Ablation:
    """One run of a table of the paper.

    Attributes:
        blend: what training draws, an option of `blend=`.
        sources: what its pool is made of.
        templates: `question_template` and `answer_template` that its pool must be prepared with; one that is not named
            is no part of the comparison, and any will do.
        steps: training steps, or None: those of every other run.
    """

    blend: str
    sources: tuple[str, ...]
    templates: Mapping[str, str] = field(default_factory=dict)
    steps: int | None = None


ABLATIONS: dict[str, Ablation] = {
    # Table 3: one source alone, 250 steps.
    **{f"table3_{source}": Ablation(f"single_{source}", (source,), steps=250) for source in SOURCES},
    # Table 5: the question template, on natural proportions. T_Open leaves no label for an answer template to write.
    "table5_open": Ablation("nd", SOURCES, {"question_template": "open"}),
    "table5_mixed": Ablation("nd", SOURCES, {"question_template": "mixed", "answer_template": "long"}),
    # Table 6: the answer template. Its long row equals B_only_gpr of Table 4 to the digit, so that is its blend.
    "table6_short": Ablation("only_gpr", GPR, {"question_template": "mixed", "answer_template": "short"}),
    "table6_long": Ablation("only_gpr", GPR, {"question_template": "mixed", "answer_template": "long"}),
}

SWEEPS: dict[str, dict[str, Any]] = {
    "ablation_blends": {"recipe": "ablation_blends"},
    # One thread each, as small matrices gain nothing from more.
    "study": {"recipe": "study", "out": "runs/study", "seeds": [0, 1, 2], "parallel": 2, "threads": 1},
}
"""What `crossthink sweep recipe=NAME` presets."""


def prep_preset(name: str) -> dict[str, Any]:
    """`crossthink prep recipe=name`: sources and templates, as a Hydra config of package `_global_`."""
    ablation = ABLATIONS[name]
    return {"defaults": [{"override /sources": list(ablation.sources)}], "recipe": name, **ablation.templates}


def train_preset(name: str) -> dict[str, Any]:
    """`crossthink train recipe=name`: blend, steps, run folder and the templates to insist on, likewise."""
    ablation = ABLATIONS[name]
    return {
        "defaults": [{"override /blend": ablation.blend}],
        "recipe": name,
        "out": f"runs/{name}",
        "pool_templates": dict(ablation.templates),
        **({} if ablation.steps is None else {"steps": ablation.steps}),
    }


def single_blend(source: str) -> dict[str, Any]:
    """`blend=single_SOURCE`: that source alone, also of a pool that holds others."""
    return {"name": f"single_{source}", "provenance": "reported", "by": "source", "weights": {source: 1.0}}


def presets(schema: type) -> dict[str, dict[str, dict[str, Any]]]:
    """Generated options for the command with this config schema: group, then name, then config."""
    if schema is PrepConfig:
        return {"recipe": {name: prep_preset(name) for name in ABLATIONS}}
    if schema is SweepConfig:
        return {"recipe": SWEEPS}
    if not issubclass(schema, TrainConfig):
        return {}
    blends = {f"single_{source}": single_blend(source) for source in SOURCES}
    if schema is DemoConfig:  # it trains on its own data
        return {"blend": blends}
    return {"blend": blends, "recipe": {name: train_preset(name) for name in ABLATIONS}}


def register(schema: type) -> None:
    """Make the options of `presets` known to Hydra, until the next call for a command with others of the same name."""
    store = ConfigStore.instance()
    for group, options in presets(schema).items():
        for name, node in options.items():
            store.store(group=group, name=name, node=node, package="_global_" if group == "recipe" else None)
