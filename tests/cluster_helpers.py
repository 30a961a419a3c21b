"""The cluster recipes on a CPU: the recipe's own config with a tiny model, and what a CPU cannot do replaced."""

from __future__ import annotations

import json
from pathlib import Path

from pool_helpers import write_pool

from conf.compose import resolve
from conf.train import TrainConfig
from data_prep.rows import PoolRow

RECIPES = ("crossthink_7b", "crossthink_32b")

# Key, value, and why the recipe's own value does not do.
REPLACED = (
    ("actor.tensor_parallel", "2", "4 ranks on 2 cores; a tiny model has 2 key-value heads"),
    ("actor.sequence_parallel", "false", "megatron-core 0.10's layer norms for it need Transformer Engine or apex"),
    ("actor.distributed_optimizer", "null", "apex's DistributedFusedAdam is GPU kernels"),
    ("actor.dtype", "float32", "NeMo's bfloat16 with float32 master weights needs apex"),
    ("actor.transformer_engine", "false", "its layers are GPU kernels"),
    ("actor.fp8", "off", "FP8 products are GPU kernels"),
    ("actor.offload", "false", "there is no device memory to free"),
    ("actor.threads", "1", "the ranks share the cores"),
    ("rollout.name", "local", "TensorRT-LLM is GPU kernels"),
    ("steps", "2", "time"),
    ("prompts_per_step", "4", "time"),
    ("samples_per_prompt", "4", "time"),
    ("micro_batch_tokens", "256", "more than one micro-batch in so small a batch"),
    ("max_prompt_tokens", "128", "time"),
    ("max_response_tokens", "16", "time"),
)
# Pipelines of 4 would be 8 ranks.
REPLACED_IN = {"crossthink_7b": (), "crossthink_32b": (("actor.pipeline_parallel", "2", "8 ranks on 2 cores"),)}


def down_scaled_words(recipe: str, model: Path, data: Path, out: Path, *overrides: str) -> list[str]:
    """The words after `crossthink train` for a cluster recipe as it can run on a CPU.

    Args:
        recipe: one of `RECIPES`.
        model: folder of a tiny Qwen2 with 2 key-value heads and an even number of layers.
        data: pool folder with both domains.
        out: the run folder.
        overrides: further words.
    """
    replaced = [f"{key}={value}" for key, value, _ in (*REPLACED, *REPLACED_IN[recipe])]
    return [f"recipe={recipe}", f"model={model}", f"data={data}", f"out={out}", *replaced, *overrides]


def down_scaled(recipe: str, model: Path, data: Path, out: Path, *overrides: str) -> TrainConfig:
    """The config that `down_scaled_words` comes to."""
    return resolve("train", TrainConfig, down_scaled_words(recipe, model, data, out, *overrides))


def published_folder(folder: Path, shape: dict[str, int], **changes: object) -> Path:
    """A folder as the published model's, of its shape and without its weights."""
    folder.mkdir()
    config = {"model_type": "qwen2", "hidden_act": "silu", "rope_theta": 1e6, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps({**config, **shape, **changes}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").touch()
    return folder


def two_domains(folder: Path) -> Path:
    """A pool that the blends of both domains can draw from."""
    rows = [
        PoolRow(str(n), source, domain, kind, "q", None, ["x"], [{"role": "user", "content": "What is 12 + 30?"}])
        for source, domain, kind in (("natural_reasoning", "gpr", "open"), ("math", "math", "math"))
        for n in range(4)
    ]
    return write_pool(folder, rows).path
