"""Hugging Face folders: tensors by name from one file or many, and written back piece by piece."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_helpers import small_tokenizer, write_small_model
from transformers import AutoModelForCausalLM

from crossthink.errors import UserError
from recipes.models.tokenizer import load_tokenizer
from recipes.models.weights import (
    DTYPES,
    SafetensorsFolder,
    SafetensorsWriter,
    TensorPlan,
    file_name,
    plan_files,
    write_companions,
    write_index,
)

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


def plans(tensors):
    return [TensorPlan(name, tuple(value.shape), value.dtype) for name, value in tensors.items()]


@given(
    sizes=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=6),
    cut=st.integers(1, 3),
    dtype=st.sampled_from(list(DTYPES.values())),
)
@settings(max_examples=50, deadline=None)
def test_what_is_written_in_pieces_is_read_whole(tmp_path_factory, sizes, cut, dtype):
    """safetensors reads back what the writer wrote, empty tensors and strided ones included."""
    tensors = {f"t{n}": torch.randn(*shape).to(dtype) for n, shape in enumerate(sizes)}
    path = tmp_path_factory.mktemp("pieces") / "model.safetensors"
    with SafetensorsWriter(path, plans(tensors)) as writer:
        for value in tensors.values():
            for piece in value.split(cut) if len(value) else ():
                writer.write(piece.mT.contiguous().mT if piece.ndim > 1 else piece)
    found = load_file(path)
    assert all(torch.equal(found[name], value) and found[name].dtype == dtype for name, value in tensors.items())


def test_a_tensor_that_was_forgotten_is_noticed(tmp_path):
    with (
        pytest.raises(AssertionError, match="24 bytes"),
        SafetensorsWriter(tmp_path / "x", plans({"a": torch.ones(6)})),
    ):
        pass


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30), limit=st.integers(1, 60))
def test_files_are_within_the_limit(sizes, limit):
    tensors = [TensorPlan(str(n), (size,), torch.float32) for n, size in enumerate(sizes)]
    files = plan_files(tensors, 4 * limit)
    assert [tensor for file in files for tensor in file] == tensors
    assert all(len(file) == 1 or sum(t.bytes for t in file) <= 4 * limit for file in files)
    for one, following in zip(files, files[1:], strict=False):
        assert sum(t.bytes for t in one) + following[0].bytes > 4 * limit, "a file was begun without need"


@pytest.mark.parametrize("limit", [1e9, 20_000])
def test_a_written_folder_is_a_model_folder(tmp_path, limit):
    """transformers loads it, from one file or from several; weights and tokenizer are the same."""
    model = write_small_model(tmp_path / "like")
    weights = {name: value.clone() for name, value in model.named_parameters()}
    weights["model.norm.weight"] += 1
    new = tmp_path / "new"
    new.mkdir()
    files = plan_files(plans(weights), limit)
    for number, tensors in enumerate(files, start=1):
        with SafetensorsWriter(new / file_name(number, len(files)), tensors) as writer:
            for tensor in tensors:
                writer.write(weights[tensor.name])
    write_index(new, files)
    write_companions(new, tmp_path / "like", torch.float32)
    assert (new / "model.safetensors.index.json").is_file() == (limit < 1e9)
    loaded = AutoModelForCausalLM.from_pretrained(new)
    for name, value in loaded.named_parameters():
        assert torch.equal(value, weights[name]), name
    assert (new / "config.json").read_bytes() == (tmp_path / "like" / "config.json").read_bytes()
    assert load_tokenizer(new).get_vocab() == small_tokenizer().get_vocab()


def test_the_config_states_the_type_of_the_weights(tmp_path):
    write_small_model(tmp_path / "like")
    (tmp_path / "new").mkdir()
    write_companions(tmp_path / "new", tmp_path / "like", torch.bfloat16)
    before, after = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("like", "new"))
    assert after == before | dict.fromkeys({"dtype", "torch_dtype"} & before.keys(), "bfloat16") != before


def test_a_part_is_a_part(single):
    folder = SafetensorsFolder(single)
    part = (slice(1, 2), slice(0, 2))
    assert torch.equal(folder.read_part("t3", part, (2, 3)), TENSORS["t3"][part])
    with pytest.raises(
        UserError, match=r"model\.safetensors: 't3' has shape \(2, 3\), but config\.json asks for \(3, 2\)"
    ):
        folder.read_part("t3", part, (3, 2))
