"""`.nemo` files: written, read back bit for bit, and refused where they are another model's or somebody's trap."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from tiny_helpers import small_tokenizer, write_small_model
from torch import Tensor

from conf.convert import ConvertConfig
from crossthink.errors import ConfigError, UserError
from recipes import convert
from recipes.models.nemo_file import unpack
from recipes.models.nemo_folder import HUGGINGFACE, MODEL_CONFIG, WEIGHTS
from recipes.models.tokenizer import load_tokenizer
from recipes.models.weights import SafetensorsFolder


def run(checkpoint: Path, out: Path, **options: object) -> Path:
    convert.run(ConvertConfig(checkpoint=str(checkpoint), out=str(out), **options))
    return out


def weights(folder: Path) -> dict[str, Tensor]:
    source = SafetensorsFolder(folder)
    return {name: source.read(name).clone() for name in source.files}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def config(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


def stated_type(folder: Path, dtype: torch.dtype) -> dict[str, str]:
    """What config.json calls the type of the weights in, by transformers 4's key or 5's."""
    return dict.fromkeys({"dtype", "torch_dtype"} & config(folder).keys(), str(dtype).removeprefix("torch."))


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    write_small_model(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.fixture
def nemo(hf: Path, tmp_path: Path) -> Path:
    return run(hf, tmp_path / "model.nemo")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_there_and_back_is_bit_exact(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """Hugging Face → .nemo → Hugging Face, and .nemo → megatron-core → Hugging Face: QKV bias among the tensors."""
    model = write_small_model(tmp_path / "hf", tie_word_embeddings=tied)
    model.to(dtype).save_pretrained(tmp_path / "hf")
    nemo = run(tmp_path / "hf", tmp_path / "model.nemo")
    back = run(nemo, tmp_path / "back", trust=True)
    through = run(run(nemo, tmp_path / "megatron", to="megatron", trust=True), tmp_path / "through")
    wanted = weights(tmp_path / "hf")
    assert any(name.endswith("q_proj.bias") for name in wanted)
    for folder in (back, through):
        assert same(wanted, weights(folder))
        assert config(folder) == config(tmp_path / "hf") | stated_type(folder, dtype)
        assert load_tokenizer(folder).get_vocab() == small_tokenizer().get_vocab()
    with tarfile.open(nemo) as archive:
        stated = yaml.safe_load(archive.extractfile(f"./{MODEL_CONFIG}"))
    assert stated["precision"] == ("bf16" if dtype == torch.bfloat16 else 32)
    assert (stated["share_embeddings_and_output_weights"], stated["qkv_bias"]) == (tied, True)
    assert stated["tokenizer"]["type"] == str(tmp_path / "hf")
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "model.nemo", "back", "megatron", "through"}


def test_a_pickle_is_read_only_on_trust(nemo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a pickle.*add trust=true"):
        run(nemo, tmp_path / "back")


def rewrite(nemo: Path, change: dict[str, object] | None = None, drop: str = "") -> Path:
    """A copy with another model_config.yaml, or without the files under `drop`."""
    target = nemo.with_name("changed.nemo")
    with tarfile.open(nemo) as archive, tarfile.open(target, "w") as out:
        for member in archive:
            data = archive.extractfile(member).read()
            if drop and member.name.startswith(f"./{drop}"):
                continue
            if change and member.name == f"./{MODEL_CONFIG}":
                data = yaml.safe_dump(yaml.safe_load(data) | change).encode()
                member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return target


@pytest.mark.parametrize(
    ("key", "value"), [("activation", "gelu"), ("num_layers", 7), ("qkv_bias", False), ("normalization", "layernorm")]
)
def test_another_architecture_is_named(key: str, value: object, nemo: Path, tmp_path: Path) -> None:
    changed = rewrite(nemo, {key: value})
    with pytest.raises(UserError, match=rf"changed\.nemo: its model_config\.yaml states {key}={value}, where .* asks"):
        run(changed, tmp_path / "back", trust=True)
    assert not (tmp_path / "back").exists()


def test_a_file_of_nemos_own_needs_the_tokenizers_folder(hf: Path, nemo: Path, tmp_path: Path) -> None:
    bare = rewrite(nemo, drop=HUGGINGFACE)
    with pytest.raises(UserError, match=r"holds no Hugging Face config and tokenizer.*like=FOLDER"):
        run(bare, tmp_path / "back", trust=True)
    assert same(weights(hf), weights(run(bare, tmp_path / "back", trust=True, like=str(hf))))
    (hf / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json: a model folder needs its tokenizer"):
        run(bare, tmp_path / "again", trust=True, like=str(hf))


@pytest.mark.parametrize(
    ("drop", "says"),
    [(WEIGHTS, r"holds no model_weights/: only models on megatron-core"), (MODEL_CONFIG, r"it is no \.nemo file")],
)
def test_what_is_missing_is_named(drop: str, says: str, nemo: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        run(rewrite(nemo, drop=drop), tmp_path / "back", trust=True)


def test_a_file_that_is_cut_off_is_named(nemo: Path, tmp_path: Path) -> None:
    nemo.write_bytes(nemo.read_bytes()[: nemo.stat().st_size // 2])
    with pytest.raises(UserError, match=r"model\.nemo is no whole \.nemo file"):
        run(nemo, tmp_path / "back", trust=True)
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "model.nemo"}


def test_nothing_is_written_outside(nemo: Path, tmp_path: Path) -> None:
    """Paths that lead out of the archive, and links, are left in it."""
    secret = tmp_path / "secret"
    secret.write_text("kept")
    with tarfile.open(nemo, "a") as archive:
        for name in (f"{WEIGHTS}/../../../secret", f"../{WEIGHTS}/x", "/tmp/absolute", f"{WEIGHTS}/.."):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo(f"{WEIGHTS}/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    (tmp_path / "into").mkdir()
    unpack(nemo, tmp_path / "into")
    assert secret.read_text() == "kept"
    assert not (tmp_path / "into" / WEIGHTS / "link").exists()
    assert {path.name for path in (tmp_path / "into").iterdir()} == {MODEL_CONFIG, WEIGHTS, HUGGINGFACE}
