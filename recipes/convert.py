"""`crossthink convert`: weights between Hugging Face folders and megatron-core checkpoints.

Towards Hugging Face, one process reads and writes one parameter after another, so a model larger than its memory
passes through. Towards megatron-core every process holds its share: with tensor_parallel × pipeline_parallel processes
that is as much less.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from conf.convert import ConvertConfig
from crossthink.errors import ConfigError
from crossthink.files import commit_dir, names_full_disk
from recipes.environment import check_environment
from recipes.manifest import write_manifest
from recipes.models.model_folder import MEGATRON_FORMAT, check_shape, read_model_config
from recipes.quiet import quiet_libraries
from recipes.stored_weights import find_weights, open_source

HUGGINGFACE, MEGATRON, AUTO = "huggingface", "megatron", "auto"
DTYPES = ("float32", "bfloat16")


def run(config: ConvertConfig) -> None:
    """Convert, and write `out` whole or not at all.

    Raises:
        ConfigError: out exists, a value is impossible, or there is nothing to convert.
        UserError: the weights are damaged, or not those of their config; names file and tensor. Or this environment
            is not that of actor=megatron, which reads and writes them.
    """
    check(config)
    check_environment("megatron")
    quiet_libraries()
    checkpoint = Path(config.checkpoint)
    weights, base = find_weights(checkpoint)
    to = config.to if config.to != AUTO else (MEGATRON if weights is None else HUGGINGFACE)
    check_shape(read_model_config(base), config.tensor_parallel, config.pipeline_parallel, str(base))
    _convert(config, to, weights, base)


def check(config: ConvertConfig) -> None:
    """Refuse impossible values.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    if Path(config.out).exists():
        raise ConfigError(f"out={config.out} already exists. Choose another out=.")
    for key, value, allowed in (
        ("to", config.to, (AUTO, HUGGINGFACE, MEGATRON)),
        ("dtype", config.dtype, (None, *DTYPES)),
    ):
        if value not in allowed:
            raise ConfigError(f"{key}={value} is not allowed. Allowed: {', '.join(str(a or 'null') for a in allowed)}.")
    for key, size in (
        ("tensor_parallel", config.tensor_parallel),
        ("pipeline_parallel", config.pipeline_parallel),
        ("threads", config.threads),
    ):
        if size < 1:
            raise ConfigError(f"{key}={size} is too small: at least 1.")
    if not config.max_shard_gb > 0:
        raise ConfigError(f"max_shard_gb={config.max_shard_gb} is too small: more than 0.")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    ranks = config.tensor_parallel * config.pipeline_parallel
    if ranks != world:
        raise ConfigError(
            f"tensor_parallel × pipeline_parallel = {config.tensor_parallel} × {config.pipeline_parallel} = {ranks}, "
            f"but this is {world} process{'es' if world > 1 else ''}. Start {ranks}, for example with "
            f"`torchrun --nproc-per-node {ranks} -m recipes.cli convert ...`."
        )


def _convert(config: ConvertConfig, to: str, weights: Path | None, base: Path) -> None:
    import torch
    import torch.distributed as dist
    from transformers import AutoConfig

    from recipes.actors.mcore.layout import WeightLayout
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.actors.megatron.cpu import redirect_to_cpu

    torch.set_num_threads(config.threads)
    out = Path(config.out)
    mesh = join_mesh(config.tensor_parallel, config.pipeline_parallel)
    try:
        redirect_to_cpu()
        layout = WeightLayout(AutoConfig.from_pretrained(base), mesh)
        source = open_source(weights, base, layout)
        aside = out.with_name(f".{out.name}.tmp")  # one name on every rank, so no process id in it
        if mesh.rank == 0:
            with names_full_disk(out):
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
        dist.barrier()
        try:
            with names_full_disk(out):
                if to == HUGGINGFACE:
                    _write_huggingface(config, aside, layout, source, base)
                else:
                    _write_megatron(config, aside, layout, source, base)
            if mesh.rank == 0:
                commit_dir(aside, out)
            dist.barrier()
        finally:
            if mesh.rank == 0:
                shutil.rmtree(aside, ignore_errors=True)
    finally:
        leave_mesh()
    if mesh.rank == 0:
        print(f"{out}: {to} weights of {config.checkpoint}")


def _dtype(config: ConvertConfig) -> Any:
    import torch

    return None if config.dtype is None else getattr(torch, config.dtype)


def _write_huggingface(config: ConvertConfig, folder: Path, layout: Any, source: Any, base: Path) -> None:
    from recipes.actors.mcore.export_weights import ExportOptions, write_hf_weights

    dtype = _dtype(config) or source.dtype(layout.everything()[0])
    write_hf_weights(folder, layout, source.read, source.dtype, ExportOptions(dtype, config.max_shard_gb * 1e9), base)


def _write_megatron(config: ConvertConfig, folder: Path, layout: Any, source: Any, base: Path) -> None:
    import torch
    import torch.distributed as dist

    from recipes.actors.mcore.dist_weights import STATE, save_weights
    from recipes.models.weights import write_companions

    mesh = layout.mesh
    if mesh.rank == 0:
        (folder / STATE).mkdir()
    dist.barrier()
    parameters = {parameter.name: source.read(parameter, _dtype(config)) for parameter in layout.held()}
    save_weights(folder / STATE, layout, parameters)
    dist.barrier()
    if mesh.rank == 0:
        dtype = _dtype(config) or source.dtype(layout.everything()[0])
        write_companions(folder, base, dtype)
        facts = {
            "format": MEGATRON_FORMAT,
            "model_type": layout.shape.model_type,
            "dtype": str(dtype).removeprefix("torch."),
            "parameters": sum(torch.Size(shape).numel() for p in layout.everything() for shape in p.hf_shapes),
        }
        write_manifest(folder, facts)
