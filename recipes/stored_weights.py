"""Where the weights are that a user names: a model folder, a run's checkpoint, or a converted folder.

All are read parameter by parameter, so that no model or optimizer is built to get at them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.compose import from_file
from conf.train import TrainConfig
from crossthink.errors import ConfigError
from recipes.manifest import verify_manifest
from recipes.models.model_folder import is_megatron_folder
from recipes.models.nemo_folder import POLICY, WEIGHTS
from recipes.rl import checkpoints
from recipes.run_folder import CONFIG, model_folder


def find_checkpoint(path: Path) -> tuple[Path, TrainConfig | None]:
    """What `checkpoint=` names: a model folder (no config), or a run's checkpoint with the run's config.

    A run folder means its newest checkpoint; `RUN/checkpoints/best` the checkpoint that this file names.

    Raises:
        ConfigError: neither.
    """
    path = checkpoints.find_pointed(path) or path
    if (path / CONFIG).is_file():
        newest = checkpoints.latest(path)
        if newest is None:
            raise ConfigError(f"checkpoint={path} is a run folder without a checkpoint yet.")
        path = newest.folder
    if (path / checkpoints.TRAINER).is_file():
        run_config = path.parent.parent / CONFIG
        if not run_config.is_file():
            raise ConfigError(f"checkpoint={path} stands outside its run folder: {run_config} is missing.")
        config = from_file(TrainConfig, run_config)
        config.out = str(path.parent.parent)  # a run folder may have been moved since it was made
        return path, config
    if not (path / "config.json").is_file():
        raise ConfigError(f"checkpoint={path} is neither a run folder, nor a run's checkpoint, nor a model folder.")
    return path, None


def find_weights(checkpoint: Path) -> tuple[Path | None, Path]:
    """Where a checkpoint's weights are.

    Args:
        checkpoint: see `find_checkpoint`.

    Returns:
        The folder of a megatron-core checkpoint, verified (None: the weights are safetensors), and the Hugging Face
        folder with config and tokenizer.

    Raises:
        ConfigError: `checkpoint` is none of these.
        UserError: a checkpoint was changed since it was saved.
    """
    from recipes.actors.mcore.dist_weights import STATE  # needs torch

    path, trained_with = find_checkpoint(checkpoint)
    if trained_with is not None:
        checkpoints.Checkpoint(path).verify()
        nemo = path / POLICY / WEIGHTS
        return nemo if nemo.is_dir() else path / STATE, model_folder(trained_with)
    if is_megatron_folder(path):
        verify_manifest(path, "Convert the model again.")
        return path / STATE, path
    return None, path


def open_source(weights: Path | None, base: Path, layout: Any) -> Any:
    """Every rank's part of each parameter: `SafetensorsSource` or `DistSource`.

    Args:
        weights, base: what `find_weights` found.
        layout: where this rank's parameters lie.

    Raises:
        UserError: damaged, or weights of another model than `base`; names file and tensor.
    """
    from recipes.actors.mcore.dist_weights import DistSource
    from recipes.actors.mcore.import_weights import SafetensorsSource

    return SafetensorsSource(layout, base) if weights is None else DistSource(layout, weights)


def stored_weights(checkpoint: Path, mesh: Any) -> Iterator[tuple[str, Any]]:
    """Hugging Face names and whole tensors of a checkpoint, one parameter in memory at a time.

    Args:
        checkpoint: see `find_checkpoint`.
        mesh: of one rank.

    Raises:
        ConfigError, UserError: see `find_weights` and `open_source`.
    """
    from recipes.actors.mcore.layout import WeightLayout
    from recipes.models.hf_config import load_config

    assert mesh.tensor == mesh.pipeline == 1, "each rank would stream its part for the whole"
    weights, base = find_weights(checkpoint)
    layout = WeightLayout(load_config(base), mesh)
    source = open_source(weights, base, layout)
    for parameter in layout.everything():
        views = layout.views(parameter, source.read(parameter), rank=0)
        for name, shape, view in zip(parameter.hf_names, parameter.hf_shapes, views, strict=True):
            yield name, view.reshape(shape)
