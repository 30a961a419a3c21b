"""Hugging Face folders: tensors by name from one file or many, and written back."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_helpers import small_tokenizer, write_small_model
from transformers import AutoModelForCausalLM

from crossthink.errors import UserError
from recipes.tokenizer import load_tokenizer
from recipes.weights import SafetensorsFolder, save_hf_folder

TENSORS = {f"t{n}": torch.arange(6.0).view(2, 3) + n for n in range(5)}


@pytest.fixture
def single(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path):
    names = sorted(TENSORS)
    shards = {"model-1-of-2.safetensors": names[:2], "model-2-of-2.safetensors": names[2:]}
    for shard, inside in shards.items():
        save_file({name: TENSORS[name] for name in inside}, tmp_path / shard)
    index = {"weight_map": {name: shard for shard, inside in shards.items() for name in inside}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize("layout", ["single", "sharded"])
def test_every_tensor_by_name(layout, request):
    folder = SafetensorsFolder(request.getfixturevalue(layout))
    assert sorted(folder.files) == sorted(TENSORS)
    for name in sorted(TENSORS, reverse=True):
        assert torch.equal(folder.read(name), TENSORS[name])


@pytest.mark.parametrize("layout", ["single", "sharded"])
def test_an_unknown_tensor_is_named(layout, request):
    path = request.getfixturevalue(layout)
    with pytest.raises(UserError, match=f"{path} has no tensor 'lm_head.weight'"):
        SafetensorsFolder(path).read("lm_head.weight")


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff" * 100])
def test_a_damaged_file_is_named(single, change):
    path = single / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path} cannot be read as safetensors"):
        SafetensorsFolder(single)


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-2-of-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"index.json names model-2-of-2.safetensors, which is not in"):
        SafetensorsFolder(sharded)


def test_an_index_that_names_the_wrong_shard(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["t4"] = "model-1-of-2.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-1-of-2.safetensors gives no tensor 't4'"):
        SafetensorsFolder(sharded).read("t4")


def test_a_written_folder_is_a_model_folder(tmp_path):
    """transformers loads it, weights and tokenizer are the same, and nothing of the source is shared."""
    model = write_small_model(tmp_path / "like")
    weights = {name: value.clone() for name, value in model.named_parameters()}
    weights["model.norm.weight"] += 1
    save_hf_folder(tmp_path / "new" / "deep", weights.items(), like=tmp_path / "like")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "deep")
    for name, value in loaded.named_parameters():
        assert torch.equal(value, weights[name]), name
    assert (tmp_path / "new" / "deep" / "config.json").read_bytes() == (tmp_path / "like" / "config.json").read_bytes()
    tokenizer = load_tokenizer(tmp_path / "new" / "deep")
    assert tokenizer.get_vocab() == small_tokenizer().get_vocab()


def test_shared_and_strided_tensors_are_written_whole(tmp_path):
    """safetensors refuses tensors that share memory, as a tied head or a slice of a fused matrix does."""
    (tmp_path / "like").mkdir()
    matrix = torch.arange(12.0).view(3, 4).requires_grad_()
    weights = {"a": matrix, "b": matrix, "rows": matrix[1:], "turned": matrix.t()}
    save_hf_folder(tmp_path / "new", weights.items(), like=tmp_path / "like")
    folder = SafetensorsFolder(tmp_path / "new")
    for name, value in weights.items():
        assert torch.equal(folder.read(name), value)
