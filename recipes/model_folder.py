"""What a Hugging Face model folder must hold, checked without torch before anything starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossthink.errors import ConfigError, UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def read_model_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder.

    Raises:
        ConfigError: it is missing or no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"model={folder} has no config.json: it is not a Hugging Face model folder.")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder.

    Raises:
        ConfigError: the file holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}). Copy the model folder again.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no JSON object. Copy the model folder again.")
    return value


def weight_files(folder: Path) -> dict[str, str]:
    """Which file holds each tensor, as the index of a sharded model states.

    Raises:
        ConfigError: the index is damaged, or names a file that is not there.
    """
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ConfigError(f"{folder / INDEX} holds no weight_map from tensor to file. Copy the model folder again.")
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or not (folder / name).is_file():
            raise ConfigError(f"{folder / INDEX} names {name}, which is not in {folder}. Copy the model folder again.")
    return weight_map


def check_model_folder(folder: Path, tensor: int, pipeline: int) -> None:
    """Refuse a folder without tokenizer or weights, or whose shape does not fit the parallel sizes.

    Raises:
        UserError: names the missing file, or the sizes with the arithmetic.
    """
    check_shape(read_model_config(folder), tensor, pipeline, str(folder))
    check_tokenizer_files(folder)
    if not (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        raise UserError(
            f"{folder} holds neither {SINGLE} nor {INDEX}. Weights are read from safetensors only; convert others "
            "with transformers' save_pretrained."
        )
    if (folder / INDEX).is_file():
        weight_files(folder)


def check_tokenizer_files(folder: Path) -> None:
    """Raises UserError where a tokenizer's file is missing or damaged."""
    for name in TOKENIZER_FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}: a model folder needs its tokenizer. Copy {', '.join(TOKENIZER_FILES)} there."
            )
        read_object(folder / name)


def check_shape(config: Mapping[str, Any], tensor: int, pipeline: int, where: str) -> None:
    """Refuse models and parallel sizes that do not fit, with the arithmetic.

    Args:
        config: the model's `config.json`.
        tensor: tensor-parallel size.
        pipeline: pipeline-parallel size.
        where: what messages call the model.

    Raises:
        ConfigError: another architecture than Qwen2, a missing key, or heads, key-value heads, MLP columns or layers
            that do not divide.
    """
    if config.get("model_type") != "qwen2":
        raise ConfigError(
            f"{where}: model_type is '{config.get('model_type')}'; actor=megatron knows qwen2 (Qwen2, Qwen2.5)."
        )
    for key, size, what, name in (
        ("actor.tensor_parallel", tensor, "attention heads", "num_attention_heads"),
        ("actor.tensor_parallel", tensor, "key-value heads", "num_key_value_heads"),
        ("actor.tensor_parallel", tensor, "MLP columns", "intermediate_size"),
        ("actor.pipeline_parallel", pipeline, "layers", "num_hidden_layers"),
    ):
        count = config.get(name)
        if not isinstance(count, int) or count < 1:
            raise ConfigError(f"{where}: config.json states {name}={count}; a whole number of at least 1 is needed.")
        if count % size:
            divisors = [n for n in range(1, count + 1) if count % n == 0 and n <= 64]
            raise ConfigError(
                f"{key}={size} does not divide the {count} {what} of {where} ({count} = {count // size} × {size} "
                f"+ {count % size}). Divisors of {count}: {', '.join(map(str, divisors))}."
            )
