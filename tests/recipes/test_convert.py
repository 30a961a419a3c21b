"""`crossthink convert`: a run's checkpoint, a Hugging Face folder and a megatron-core checkpoint into one another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_helpers import small_tokenizer, write_small_model
from train_helpers import TinyWorld, crossthink, succeed
from transformers import AutoModelForCausalLM

from conf.convert import ConvertConfig
from crossthink.errors import EXIT_FAILED, EXIT_USAGE, ConfigError, UserError
from recipes import convert
from recipes.models.model_folder import MEGATRON_FORMAT, check_model_folder
from recipes.models.tokenizer import load_tokenizer
from recipes.models.weights import SafetensorsFolder
from recipes.stored_weights import find_checkpoint, stored_weights


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a Hugging Face folder."""
    source = SafetensorsFolder(folder)
    return {name: source.read(name).clone() for name in source.files}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_to_megatron_and_back_is_bit_exact(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """The same tensors of the same types, the same config, a tokenizer; only the files are cut otherwise."""
    model = write_small_model(tmp_path / "hf", tie_word_embeddings=tied)
    model.to(dtype).save_pretrained(tmp_path / "hf")
    convert.run(ConvertConfig(checkpoint=str(tmp_path / "hf"), out=str(tmp_path / "megatron")))
    assert not list((tmp_path / "megatron").glob("*.safetensors"))
    back = ConvertConfig(checkpoint=str(tmp_path / "megatron"), out=str(tmp_path / "back"), max_shard_gb=2e-5)
    convert.run(back)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 2
    assert equal(weights(tmp_path / "hf"), weights(tmp_path / "back"))
    assert (tmp_path / "hf" / "config.json").read_bytes() == (tmp_path / "back" / "config.json").read_bytes()
    assert load_tokenizer(tmp_path / "back").get_vocab() == small_tokenizer().get_vocab()
    manifest = json.loads((tmp_path / "megatron" / "manifest.json").read_text())
    assert (manifest["model_type"], manifest["dtype"]) == ("qwen2", str(dtype).removeprefix("torch."))
    assert manifest["parameters"] == sum(p.numel() for p in model.parameters())


def test_training_starts_from_a_megatron_folder(hf: Path, tmp_path: Path) -> None:
    """The same parameters, bit for bit, as from the folder that it was made of."""
    from transformers import AutoConfig

    from conf.actor import ActorConfig
    from recipes.actors.mcore.import_weights import load_hf_weights
    from recipes.actors.mcore.layout import WeightLayout
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.actors.megatron.model import build_model

    convert.run(ConvertConfig(checkpoint=str(hf), out=str(tmp_path / "megatron")))
    check_model_folder(tmp_path / "megatron", tensor=1, pipeline=1)
    mesh = join_mesh(1, 1)
    try:
        found = []
        for folder in (hf, tmp_path / "megatron"):
            config = AutoConfig.from_pretrained(folder)
            model = build_model(config, mesh, ActorConfig())
            load_hf_weights(model, WeightLayout(config, mesh), folder)
            found.append(dict(model.named_parameters()))
    finally:
        leave_mesh()
    assert equal(*found)


def test_dtype_is_the_files_and_the_configs(tmp_path: Path) -> None:
    model = write_small_model(tmp_path / "hf")
    convert.run(
        ConvertConfig(checkpoint=str(tmp_path / "hf"), out=str(tmp_path / "b"), to="huggingface", dtype="bfloat16")
    )
    found = load_file(tmp_path / "b" / "model.safetensors")
    saved = dict(model.named_parameters())
    assert all(torch.equal(found[name], saved[name].bfloat16()) for name in saved)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "b").dtype == torch.bfloat16


def test_a_runs_checkpoint_becomes_a_model_folder(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """The newest checkpoint's weights, written by two ranks, as an actor that loads it; transformers reads them."""
    from conf.actor import OptimizerConfig
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.actors.megatron.actor import MegatronActor

    moved = ("steps=1", "optimizer.lr=1e-3", "actor.tensor_parallel=2")
    succeed(*tiny_world.train_words(tmp_path / "run", *moved, tiny_world.judged))
    succeed("convert", f"checkpoint={tmp_path / 'run'}", f"out={tmp_path / 'hf'}")
    checkpoint, _ = find_checkpoint(tmp_path / "run")
    mesh = join_mesh(1, 1)
    try:
        settings = {"vocabulary": 10**6, "pad_id": 0, "temperature": 1.0, "micro_batch_tokens": 1, "seed": 0}
        actor = MegatronActor(tiny_world.base, mesh, OptimizerConfig(), **settings, with_reference=False)
        actor.load(checkpoint)
        streamed = {name: tensor.clone() for name, tensor in actor.weights()}
        stored = dict(stored_weights(tmp_path / "run", mesh))
    finally:
        leave_mesh()
    found = weights(tmp_path / "hf")
    assert equal(found, streamed) and equal(found, stored)
    assert not equal(found, weights(tiny_world.base)), "training moved nothing: nothing would be compared"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert all(torch.equal(value, streamed[name]) for name, value in loaded.named_parameters())
    check_model_folder(tmp_path / "hf", tensor=1, pipeline=1)


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    write_small_model(tmp_path / "hf")
    return tmp_path / "hf"


BAD = {
    "to": ({"to": "onnx"}, "to=onnx is not allowed. Allowed: auto, huggingface, megatron, nemo"),
    "ending": ({"to": "nemo"}, r"to=nemo and out=.* do not agree: to=nemo writes a file that ends in \.nemo"),
    "dtype": ({"dtype": "float8"}, "dtype=float8 is not allowed. Allowed: null, float32, bfloat16"),
    "max_shard_gb": ({"max_shard_gb": 0.0}, "max_shard_gb=0.0 is too small"),
    "threads": ({"threads": 0}, "threads=0 is too small"),
    "ranks": ({"tensor_parallel": 2}, r"tensor_parallel × pipeline_parallel = 2 × 1 = 2, but this is 1 process"),
    "checkpoint": ({"checkpoint": "/nowhere"}, "checkpoint=/nowhere is neither a run folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_impossible_is_refused(name: str, hf: Path, tmp_path: Path) -> None:
    changes, message = BAD[name]
    options = {"checkpoint": str(hf), "out": str(tmp_path / "out")} | changes
    with pytest.raises(ConfigError, match=message):
        convert.run(ConvertConfig(**options))
    assert {path.name for path in tmp_path.iterdir()} == {"hf"}


def test_out_is_never_overwritten(hf: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        convert.run(ConvertConfig(checkpoint=str(hf), out=str(tmp_path / "out")))


def test_damage_leaves_nothing_behind(hf: Path, tmp_path: Path) -> None:
    """A cut-off file as a user meets it: named, no traceback, no half-written folder."""
    path = hf / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    done = crossthink("convert", f"checkpoint={hf}", f"out={tmp_path / 'out'}")
    assert done.returncode == EXIT_FAILED
    assert f"{path} cannot be read as safetensors" in done.stderr and "Traceback" not in done.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"hf"}


def test_a_changed_checkpoint_is_not_read(hf: Path, tmp_path: Path) -> None:
    """torch's metadata is a pickle: a file that is not the one that was written is not opened."""
    convert.run(ConvertConfig(checkpoint=str(hf), out=str(tmp_path / "megatron")))
    with open(tmp_path / "megatron" / "state" / ".metadata", "ab") as handle:
        handle.write(b"x")
    with pytest.raises(UserError, match=r"\.metadata was changed since it was saved\. Convert the model again"):
        convert.run(ConvertConfig(checkpoint=str(tmp_path / "megatron"), out=str(tmp_path / "back")))


def test_a_checkpoint_of_another_model_is_named(hf: Path, tmp_path: Path) -> None:
    from recipes.manifest import MANIFEST, write_manifest

    convert.run(ConvertConfig(checkpoint=str(hf), out=str(tmp_path / "megatron")))
    write_small_model(tmp_path / "other", intermediate_size=96)
    shutil.copyfile(tmp_path / "other" / "config.json", tmp_path / "megatron" / "config.json")
    (tmp_path / "megatron" / MANIFEST).unlink()
    write_manifest(tmp_path / "megatron", {"format": MEGATRON_FORMAT})
    with pytest.raises(UserError, match=r"mlp\.linear_fc1\.weight.*\(2, 192, 32\).*another model") as caught:
        convert.run(ConvertConfig(checkpoint=str(tmp_path / "megatron"), out=str(tmp_path / "back")))
    assert "(2, 128, 32)" in str(caught.value)


def test_the_command_line_knows_every_key() -> None:
    done = succeed("convert", "--help")
    assert all(key in done.stdout for key in ("checkpoint", "out", "to", "dtype", "max_shard_gb", "tensor_parallel"))
    wrong = crossthink("convert", "checkpoint=x", "out=y", "max_shard=1")
    assert (wrong.returncode, "Did you mean 'max_shard_gb'?" in wrong.stderr) == (EXIT_USAGE, True)
