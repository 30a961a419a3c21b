"""Writes known_keys.json, the list of config keys that NeMo-Aligner's stack knows, from the sources of that stack.

Run `python -m recipes.actors.aligner.list_keys NEMO ALIGNER MEGATRON APEX` with a git clone of each repository. The
revisions are those below, whatever the clones have checked out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recipes.actors.aligner.key_reads import (
    argument_keys,
    config_reads,
    dataclass_keys,
    literal_keys,
    yaml_keys,
)
from recipes.actors.aligner.known_keys import LIST, OPTIMIZER


@dataclass(frozen=True)
class Source:
    """A repository at one commit.

    Attributes:
        repository: on GitHub.
        revision: its tag, or a commit.
        package: what it is installed as.
    """

    repository: str
    revision: str
    package: str


SOURCES = {
    "nemo": Source("NVIDIA/NeMo", "v2.1.0", "nemo_toolkit 2.1.0"),
    "aligner": Source("NVIDIA/NeMo-Aligner", "v0.7.0", "nemo_aligner 0.7.0"),
    "megatron": Source("NVIDIA/Megatron-LM", "refs/heads/core_r0.10.0", "megatron_core 0.10.0"),
    # What NeMo 2.1.0's Dockerfile.ci builds.
    "apex": Source("NVIDIA/apex", "810ffae374a2b9cb4b5c5e28eaeca7d7998fca0c", "apex"),
}

# What code calls a config, and the prefix of its keys. A model's config is the section `model`.
_MODEL = dict.fromkeys(
    (
        "cfg", "self.cfg", "self._cfg", "model.cfg", "ptl_model.cfg", "self.model.cfg", "self.lightning_module.cfg",
        "model_cfg", "updated_cfg",
    ),
    "model",
)  # fmt: skip
_WHOLE = {"cfg": "", "self.cfg": ""}
_GPT = "nemo/collections/nlp/models/language_modeling/"
_ALIGNER_GPT = "nemo_aligner/models/nlp/gpt/"
_EXAMPLES = "examples/nlp/gpt/"


@dataclass(frozen=True)
class Code:
    """A source file that reads a config; see `config_reads`."""

    source: str
    path: str
    roots: dict[str, str]
    readers: dict[str, str] = field(default_factory=dict)
    skip: tuple[str, ...] = ()


CODE = (
    Code("nemo", f"{_GPT}megatron_base_model.py", _MODEL, {"get_config_arg": OPTIMIZER}),
    Code("nemo", f"{_GPT}megatron_gpt_model.py", _MODEL),
    Code("nemo", "nemo/collections/nlp/models/nlp_model.py", _MODEL, skip=("setup_tokenizer",)),
    Code("nemo", "nemo/collections/nlp/parts/mixins/nlp_adapter_mixins.py", _MODEL,
         skip=("merge_cfg_with", "merge_inference_cfg")),
    Code("nemo", "nemo/collections/nlp/parts/peft_config.py", _MODEL),
    Code("nemo", "nemo/collections/nlp/parts/nlp_overrides.py", _MODEL),
    Code("nemo", "nemo/collections/nlp/parts/megatron_trainer_builder.py", _WHOLE),
    Code("nemo", "nemo/utils/callbacks/dist_ckpt_io.py", {"model_cfg": "model"}),
    Code("nemo", "nemo/core/classes/modelPT.py", {**_MODEL, "optim_config": OPTIMIZER},
         skip=("maybe_init_from_pretrained_checkpoint",)),
    Code("nemo", "nemo/core/optim/lr_scheduler.py", {"scheduler_config": f"{OPTIMIZER}.sched"}),
    Code("aligner", f"{_ALIGNER_GPT}megatron_gpt_reinforce_actor.py", _MODEL),
    Code("aligner", f"{_ALIGNER_GPT}megatron_gpt_ppo_actor.py", _MODEL),
    Code("aligner", f"{_ALIGNER_GPT}megatron_gpt_critic.py", _MODEL),
    Code("aligner", f"{_ALIGNER_GPT}megatron_gpt_reward_model.py", _MODEL),
    Code("aligner", f"{_ALIGNER_GPT}reward_critic_clients.py", {"cfg": "remote_rm", "self.cfg": "remote_rm"}),
    Code("aligner", "nemo_aligner/algorithms/reinforce.py", dict.fromkeys(_WHOLE, "trainer.reinforce")),
    Code("aligner", "nemo_aligner/algorithms/ppo.py", dict.fromkeys(_WHOLE, "trainer.ppo")),
    Code("aligner", "nemo_aligner/algorithms/critic_server_trainer.py", dict.fromkeys(_WHOLE, "trainer.ppo")),
    Code("aligner", "nemo_aligner/utils/train_utils.py", _MODEL),
    Code("aligner", "nemo_aligner/utils/train_script_utils.py", {"updated_cfg": "model"}),
    Code("aligner", "nemo_aligner/utils/utils.py", {"model_cfg_to_overwrite": "model"}),
    Code("aligner", f"{_EXAMPLES}train_gpt_reinforce_actor.py", _WHOLE),
    Code("aligner", f"{_EXAMPLES}train_gpt_ppo_actor.py", _WHOLE),
    Code("aligner", f"{_EXAMPLES}serve_ppo_critic.py", _WHOLE),
)  # fmt: skip

# YAML files whose every key counts as known, with the prefix of their keys.
YAML = (
    ("aligner", f"{_EXAMPLES}conf/gpt_reinforce_actor.yaml"),
    ("aligner", f"{_EXAMPLES}conf/gpt_ppo_actor.yaml"),
    ("aligner", f"{_EXAMPLES}conf/gpt_ppo_critic.yaml"),
)

# `model.optim.name` picks a class, and the section's other keys are arguments of its constructor. Keys of one class
# stand in the list under model.optim@NAME.
_NEMO_OPTIMIZERS = "nemo/core/config/optimizers.py"
_FUSED, _DISTRIBUTED = f"{OPTIMIZER}@fused_adam", f"{OPTIMIZER}@distributed_fused_adam"
_NOT_FROM_CONFIG = ("params", "process_group", "distributed_process_group", "redundant_process_group")

# Sections whose keys nobody lists: they are handed on as they are.
OPEN = (
    "exp_manager.summary_writer_kwargs",
    "exp_manager.wandb_logger_kwargs",
    "exp_manager.neptune_logger_kwargs",
    "exp_manager.mlflow_logger_kwargs",
    "exp_manager.dllogger_logger_kwargs",
    "exp_manager.clearml_logger_kwargs",
    "model.mcore_customization_config",
    "model.megatron_timer_kwargs",
    "model.optim_param_groups",
    "model.overwrite_base_config",
    "model.tokenizer.special_tokens",
    "model.ub_tp_comm_overlap_cfg",
)

# Not keys: what the code asks of a value, or refuses.
NO_KEYS = ("model.model", "model.tokenizer.tokenizer_name.megatron", "model.optim._target_.__name__")

Found = Iterator[tuple[str, str, dict[str, int]]]  # source, path, keys with lines


def collect(read: Callable[[str, str], str]) -> dict[str, list[str]]:
    """Every known key with the first place of each source that knows it.

    Args:
        read: the text of a file, by the source's name and the path.
    """
    keys: dict[str, list[str]] = {}
    for source, path, lines in _found(read):
        for key, line in lines.items():
            if key in NO_KEYS:
                continue
            places = keys.setdefault(key, [])
            if not any(place.startswith(f"{source}:") for place in places):
                places.append(f"{source}:{path}:{line}")
    for key in OPEN:
        keys.setdefault(f"{key}.*", keys.get(key, []))
    return dict(sorted(keys.items()))


def _found(read: Callable[[str, str], str]) -> Found:
    for code in CODE:
        yield code.source, code.path, config_reads(read(code.source, code.path), code.roots, code.readers, code.skip)
    yield from _megatron(read)
    yield from _optimizers(read)
    for path, name, prefix in (
        ("nemo/utils/exp_manager.py", "ExpManagerConfig", "exp_manager"),
        ("nemo/core/config/pytorch_lightning.py", "TrainerConfig", "trainer"),
        ("nemo/core/config/schedulers.py", "CosineAnnealingParams", f"{OPTIMIZER}.sched"),
    ):
        yield "nemo", path, dataclass_keys(read("nemo", path), name, prefix)
    for source, path in YAML:
        yield source, path, _example(read(source, path))


def _example(text: str) -> dict[str, int]:
    """Keys of an example's YAML; arguments of its optimizer stand under that optimizer."""
    optimizer = yaml.safe_load(text)["model"]["optim"]["name"]
    found = {}
    for key, line in yaml_keys(text).items():
        word = key.removeprefix(f"{OPTIMIZER}.").split(".")[0]
        own = key.startswith(f"{OPTIMIZER}.") and word not in ("name", "sched")
        found[key.replace(OPTIMIZER, f"{OPTIMIZER}@{optimizer}", 1) if own else key] = line
    return found


def _megatron(read: Callable[[str, str], str]) -> Found:
    """Fields of megatron-core's configs, which NeMo fills from keys of the same name unless it computes them itself."""
    base, gpt = read("nemo", f"{_GPT}megatron_base_model.py"), read("nemo", f"{_GPT}megatron_gpt_model.py")
    computed = literal_keys(base, "build_transformer_config", "config_mapping")
    computed |= literal_keys(gpt, "build_transformer_config", "model_specific_configs")
    path = "megatron/core/transformer/transformer_config.py"
    yield "megatron", path, dataclass_keys(read("megatron", path), "TransformerConfig", "model", computed)
    path = "megatron/core/model_parallel_config.py"
    yield "megatron", path, dataclass_keys(read("megatron", path), "ModelParallelConfig", "model")


def _optimizers(read: Callable[[str, str], str]) -> Found:
    params = read("nemo", _NEMO_OPTIMIZERS)
    for name, optimizer in (("SGDParams", "sgd"), ("AdamParams", "adam"), ("AdamWParams", "adamw")):
        yield "nemo", _NEMO_OPTIMIZERS, dataclass_keys(params, name, f"{OPTIMIZER}@{optimizer}")
    for source, path, name, prefix in (
        ("nemo", "nemo/core/optim/distributed_adam.py", "MegatronDistributedFusedAdam", _DISTRIBUTED),
        ("apex", "apex/contrib/optimizers/distributed_fused_adam.py", "DistributedFusedAdam", _DISTRIBUTED),
        ("apex", "apex/optimizers/fused_adam.py", "FusedAdam", _FUSED),
        ("apex", "apex/optimizers/fused_adam.py", "FusedAdam", f"{OPTIMIZER}@megatron_fused_adam"),
    ):
        yield source, path, argument_keys(read(source, path), name, prefix, _NOT_FROM_CONFIG)


def _git(clone: str, *words: str) -> str:
    done = subprocess.run(["git", "-C", clone, *words], capture_output=True, text=True, check=True)
    return done.stdout


def main(clones: list[str]) -> None:
    """Write the list. `clones`: git clones in the order of `SOURCES`."""
    folders = dict(zip(SOURCES, clones, strict=True))
    commits = {
        name: _git(folders[name], "rev-parse", f"{source.revision}^{{commit}}").strip()
        for name, source in SOURCES.items()
    }
    keys = collect(lambda source, path: _git(folders[source], "show", f"{commits[source]}:{path}"))
    header: dict[str, Any] = {
        name: {"repository": source.repository, "commit": commits[name], "package": source.package}
        for name, source in SOURCES.items()
    }
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(' '.join(places))}" for key, places in keys.items())
    Path(LIST).write_text(f'{{"sources": {json.dumps(header)},\n "keys": {{\n{lines}\n }}}}\n', "utf-8")
    print(f"{len(keys)} keys in {LIST}")


if __name__ == "__main__":
    if len(sys.argv) != 1 + len(SOURCES):
        sys.exit(f"usage: python -m recipes.actors.aligner.list_keys {' '.join(name.upper() for name in SOURCES)}")
    main(sys.argv[1:])
