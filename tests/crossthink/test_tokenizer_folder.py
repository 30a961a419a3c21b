"""tokenizer_config.json as transformers 4 and as transformers 5 writes it: the same tokenizer in either."""

import json

import pytest

from crossthink.tokenizer_folder import read_tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
TEXT = "a<|im_start|>b"


@pytest.fixture
def folder(tmp_path):
    from tokenizers import AddedToken, Tokenizer, models

    core = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    core.add_special_tokens([AddedToken(token, normalized=False) for token in ("<|im_start|>", "<|im_end|>")])
    core.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize(
    "written",
    [
        {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<|im_start|>"]},
        {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<|im_start|>"], "backend": "tokenizers"},
        {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": ["<|im_start|>"]},
    ],
    ids=["transformers 4", "transformers 5", "of a class that both know"],
)
def test_the_same_tokenizer(written, folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", **written}))
    tokenizer = read_tokenizer(transformers, folder, local_files_only=True)
    assert tokenizer(TEXT)["input_ids"] == [0, 2, 1]
    assert sorted(tokenizer.all_special_tokens) == ["<|im_end|>", "<|im_start|>"]
    assert tokenizer.decode([0, 2, 1, 3], skip_special_tokens=True).split() == ["a", "b"]


def test_an_unknown_class_is_transformers_own_error(folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NoSuchTokenizer"}))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(Exception):  # noqa: B017 - of many kinds, as its docstring says
        read_tokenizer(transformers, folder, local_files_only=True)
