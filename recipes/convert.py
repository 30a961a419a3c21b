"""`crossthink convert`: weights between Hugging Face folders, megatron-core checkpoints and `.nemo` files.

Towards Hugging Face, one process reads and writes one parameter after another, so a model larger than its memory
passes through. Towards the others every process holds its share: with tensor_parallel × pipeline_parallel processes
that is as much less. NeMo itself is not needed for a `.nemo`, so either environment will do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.convert import ConvertConfig
from crossthink.errors import ConfigError, UserError
from crossthink.files import commit_dir, names_full_disk
from recipes.actors.stack import prepare_stack, redirect_loaded_stack
from recipes.manifest import write_manifest
from recipes.models import nemo_folder
from recipes.models.families import read_shape
from recipes.models.model_folder import MEGATRON_FORMAT, check_shape, check_tokenizer_files, read_model_config
from recipes.models.nemo_file import SUFFIX, is_nemo_file, pack, unpack
from recipes.quiet import quiet_libraries
from recipes.stored_weights import find_weights, open_source

HUGGINGFACE, MEGATRON, NEMO, AUTO = "huggingface", "megatron", "nemo", "auto"
DTYPES = ("float32", "bfloat16")


def run(config: ConvertConfig) -> None:
    """Convert, and write `out` whole or not at all.

    Raises:
        ConfigError: out exists, a value is impossible, or there is nothing to convert.
        UserError: the weights are damaged, or not those of their config; names file and tensor.
    """
    check(config)
    quiet_libraries()
    prepare_stack()
    import torch
    import torch.distributed as dist

    from recipes.actors.mcore.mesh import join_mesh, leave_mesh

    torch.set_num_threads(config.threads)
    out = Path(config.out)
    mesh = join_mesh(config.tensor_parallel, config.pipeline_parallel)
    try:
        with _folder_beside(out, "nemo", mesh) as unpacked:
            weights, base = _find(config, unpacked, mesh)
            check_shape(read_model_config(base), config.tensor_parallel, config.pipeline_parallel, str(base))
            to = _target(config, weights)
            with _folder_beside(out, "tmp", mesh) as aside, names_full_disk(out):
                _write(config, to, aside, weights, base, mesh)
                if mesh.rank == 0:
                    pack(aside, out) if to == NEMO else commit_dir(aside, out)
                dist.barrier()
    finally:
        leave_mesh()
    if mesh.rank == 0:
        print(f"{out}: {to} weights of {config.checkpoint}")


def check(config: ConvertConfig) -> None:
    """Refuse impossible values.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    if Path(config.out).exists():
        raise ConfigError(f"out={config.out} already exists. Choose another out=.")
    for key, value, allowed in (
        ("to", config.to, (AUTO, HUGGINGFACE, MEGATRON, NEMO)),
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
    if (config.to == NEMO) != (Path(config.out).suffix == SUFFIX) and config.to != AUTO:
        raise ConfigError(
            f"to={config.to} and out={config.out} do not agree: to=nemo writes a file that ends in .nemo."
        )
    if is_nemo_file(Path(config.checkpoint)) and not config.trust:
        raise ConfigError(
            f"checkpoint={config.checkpoint}: a .nemo holds a pickle, which can run any program when it is read. If "
            "you trust who made it, add trust=true."
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    ranks = config.tensor_parallel * config.pipeline_parallel
    if ranks != world:
        raise ConfigError(
            f"tensor_parallel × pipeline_parallel = {config.tensor_parallel} × {config.pipeline_parallel} = {ranks}, "
            f"but this is {world} process{'es' if world > 1 else ''}. Start {ranks}, for example with "
            f"`torchrun --nproc-per-node {ranks} -m recipes.cli convert ...`."
        )


@contextlib.contextmanager
def _folder_beside(out: Path, ending: str, mesh: Any) -> Iterator[Path]:
    """A new folder beside `out` that every rank sees, and that vanishes with the block. Collective."""
    import torch.distributed as dist

    aside = out.with_name(f".{out.name}.{ending}")  # one name on every rank, so no process id in it
    if mesh.rank == 0:
        with names_full_disk(out):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
    dist.barrier()
    try:
        yield aside
    finally:
        if mesh.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)


def _find(config: ConvertConfig, unpacked: Path, mesh: Any) -> tuple[Path | None, Path]:
    """What `find_weights` finds, or the same of a `.nemo`, which is unpacked first."""
    import torch.distributed as dist

    checkpoint = Path(config.checkpoint)
    if not is_nemo_file(checkpoint):
        return find_weights(checkpoint)
    if mesh.rank == 0:
        with names_full_disk(unpacked):
            unpack(checkpoint, unpacked)
    dist.barrier()
    base = Path(config.like) if config.like else unpacked / nemo_folder.HUGGINGFACE
    if not (base / "config.json").is_file():
        raise UserError(
            f"{checkpoint} holds no Hugging Face config and tokenizer: NeMo's own files only name them. Give "
            "like=FOLDER, a Hugging Face folder of the same model."
            if config.like is None
            else f"like={config.like} has no config.json: it is not a Hugging Face model folder."
        )
    check_tokenizer_files(base)
    shape = read_shape(read_model_config(base), str(base))
    nemo_folder.check_architecture(nemo_folder.read_nemo_config(unpacked), shape, str(checkpoint))
    return unpacked / nemo_folder.WEIGHTS, base


def _target(config: ConvertConfig, weights: Path | None) -> str:
    if config.to != AUTO:
        return config.to
    if Path(config.out).suffix == SUFFIX:
        return NEMO
    return MEGATRON if weights is None else HUGGINGFACE


def _write(config: ConvertConfig, to: str, aside: Path, weights: Path | None, base: Path, mesh: Any) -> None:
    from recipes.actors.mcore.layout import WeightLayout, padded_vocabulary
    from recipes.models.hf_config import load_config

    model = load_config(base)
    multiple = nemo_folder.VOCABULARY_MULTIPLE if to == NEMO else 1
    layout = WeightLayout(model, mesh, vocabulary_rows=padded_vocabulary(model, mesh.tensor, multiple))
    source = open_source(weights, base, layout)
    write = {HUGGINGFACE: _write_huggingface, MEGATRON: _write_megatron, NEMO: _write_nemo}[to]
    write(config, aside, layout, source, base)


def _dtype(config: ConvertConfig) -> Any:
    import torch

    return None if config.dtype is None else getattr(torch, config.dtype)


def _write_huggingface(config: ConvertConfig, folder: Path, layout: Any, source: Any, base: Path) -> None:
    from recipes.actors.mcore.export_weights import ExportOptions, write_hf_weights

    dtype = _dtype(config) or source.dtype(layout.everything()[0])
    write_hf_weights(folder, layout, source.read, source.dtype, ExportOptions(dtype, config.max_shard_gb * 1e9), base)


def _write_megatron(config: ConvertConfig, folder: Path, layout: Any, source: Any, base: Path) -> None:
    import torch

    from recipes.actors.mcore.dist_weights import STATE
    from recipes.models.weights import write_companions

    _save(config, folder / STATE, layout, source)
    if layout.mesh.rank == 0:
        dtype = _dtype(config) or source.dtype(layout.everything()[0])
        write_companions(folder, base, dtype)
        facts = {
            "format": MEGATRON_FORMAT,
            "model_type": layout.shape.model_type,
            "dtype": str(dtype).removeprefix("torch."),
            "parameters": sum(torch.Size(shape).numel() for p in layout.everything() for shape in p.hf_shapes),
        }
        write_manifest(folder, facts)


def _write_nemo(config: ConvertConfig, folder: Path, layout: Any, source: Any, base: Path) -> None:
    import yaml

    from recipes.actors.mcore.dist_weights import NEMO_PREFIX
    from recipes.models.weights import write_companions

    dtype = _dtype(config) or source.dtype(layout.everything()[0])
    stated = nemo_folder.stored_config(
        layout.shape,
        layout.vocabulary_rows,
        read_model_config(base)["max_position_embeddings"],
        bfloat16=str(dtype) == "torch.bfloat16",
        tokenizer=Path(config.like or base).resolve(),
    )
    _save(config, folder / nemo_folder.WEIGHTS, layout, source, NEMO_PREFIX)
    if layout.mesh.rank == 0:
        (folder / nemo_folder.MODEL_CONFIG).write_text(yaml.safe_dump(stated, sort_keys=False), "utf-8")
        (folder / nemo_folder.HUGGINGFACE).mkdir()
        write_companions(folder / nemo_folder.HUGGINGFACE, base, dtype)


def _save(config: ConvertConfig, state: Path, layout: Any, source: Any, prefix: str = "") -> None:
    """Save every parameter as a distributed checkpoint. Collective."""
    import torch.distributed as dist

    from recipes.actors.mcore.dist_weights import save_weights

    redirect_loaded_stack()
    if layout.mesh.rank == 0:
        state.mkdir()
    dist.barrier()
    parameters = {parameter.name: source.read(parameter, _dtype(config)) for parameter in layout.held()}
    save_weights(state, layout, parameters, prefix)
    dist.barrier()
