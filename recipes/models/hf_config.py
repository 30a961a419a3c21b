"""Configs of model folders that transformers 4 or 5 wrote, read by either."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from crossthink.errors import ConfigError
from recipes.models.model_folder import read_model_config


def load_config(folder: Path) -> PretrainedConfig:
    """The config of a model folder, from which this transformers builds the model that the folder holds.

    Raises:
        ConfigError: config.json is damaged, or of a family that this transformers does not know.
    """
    stated = read_model_config(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
    except ValueError as error:
        raise ConfigError(f"{folder}: this environment's transformers cannot read config.json: {error}") from error
    rotary = stated.get("rope_parameters")
    if rotary and hasattr(config, "rope_theta"):  # transformers 4, which would silently take its own default
        config.rope_theta = rotary.get("rope_theta", config.rope_theta)
        plain = rotary.get("rope_type", "default") == "default"
        config.rope_scaling = None if plain else {key: rotary[key] for key in rotary if key != "rope_theta"}
    return config
