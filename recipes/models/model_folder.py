"""What a Hugging Face model folder must hold, checked without torch before anything starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossthink.errors import ConfigError, UserError
from recipes.manifest import MANIFEST, verify_manifest
from recipes.models.families import read_shape

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MEGATRON_FORMAT = "crossthink-megatron-weights"
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


def is_megatron_folder(folder: Path) -> bool:
    """Whether `crossthink convert to=megatron` wrote the folder."""
    return (folder / MANIFEST).is_file() and read_object(folder / MANIFEST).get("format") == MEGATRON_FORMAT


def weights_key(folder: Path) -> Path:
    """The file whose content changes with the weights: the safetensors, their index, or a manifest of checksums."""
    return folder / next((name for name in (INDEX, SINGLE) if (folder / name).is_file()), MANIFEST)


def check_model_folder(folder: Path, tensor: int, pipeline: int) -> None:
    """Refuse a folder without tokenizer or weights, or whose shape does not fit the parallel sizes.

    Raises:
        UserError: names the missing file, or the sizes with the arithmetic.
    """
    check_shape(read_model_config(folder), tensor, pipeline, str(folder))
    check_tokenizer_files(folder)
    if is_megatron_folder(folder):
        verify_manifest(folder, "Convert the model again.")
    elif not (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        raise UserError(
            f"{folder} holds neither {SINGLE} nor {INDEX}. Weights are read from safetensors only; convert others "
            "with transformers' save_pretrained."
        )
    if (folder / INDEX).is_file():
        weight_files(folder)


def check_published(folder: Path, hub_id: str, shape: Mapping[str, int]) -> None:
    """Refuse a folder whose model has not the shape of the published one that it was said to be.

    Args:
        folder: the model folder.
        hub_id: the published model on the Hugging Face Hub.
        shape: keys of its config.json and their values.

    Raises:
        ConfigError: names the first key that differs, with both values.
    """
    config = read_model_config(folder)
    for key, wanted in shape.items():
        if config.get(key) != wanted:
            raise ConfigError(
                f"model.path={folder} is not {hub_id}: its config.json states {key}={config.get(key)}, and {hub_id} "
                f"has {wanted}. Give its folder, or model={folder} for the model that it holds."
            )


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
        ConfigError: an unknown architecture or feature (see `recipes.models.families.read_shape`), heads, key-value
            heads or MLP columns that do not divide among tensor-parallel ranks, or more pipeline stages than layers.
    """
    shape = read_shape(config, where)
    for count, what in (
        (shape.heads, "attention heads"),
        (shape.kv_heads, "key-value heads"),
        (shape.mlp, "MLP columns"),
    ):
        if count % tensor:
            divisors = [n for n in range(1, count + 1) if count % n == 0 and n <= 64]
            raise ConfigError(
                f"actor.tensor_parallel={tensor} does not divide the {count} {what} of {where} ({count} = "
                f"{count // tensor} × {tensor} + {count % tensor}). Divisors of {count}: "
                f"{', '.join(map(str, divisors))}."
            )
    if pipeline > shape.layers:
        raise ConfigError(
            f"actor.pipeline_parallel={pipeline} is more than the {shape.layers} layers of {where}: each stage needs a "
            f"layer of its own. Allowed: 1 to {shape.layers}."
        )
