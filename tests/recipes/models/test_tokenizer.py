"""Tokenizers of model folders: loading them, and every id that ends a response."""

import json

import pytest
from tiny_helpers import small_tokenizer

from crossthink.errors import UserError
from recipes.models.tokenizer import load_tokenizer, stop_ids


@pytest.fixture
def folder(tmp_path):
    small_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_tokenizer_comes_back(folder):
    loaded, made = load_tokenizer(folder), small_tokenizer()
    text = "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<think>grüße</think>\\boxed{42}"
    assert loaded(text)["input_ids"] == made(text)["input_ids"]
    assert loaded.chat_template == made.chat_template
    assert (loaded.eos_token_id, loaded.pad_token_id, len(loaded)) == (made.eos_token_id, made.pad_token_id, len(made))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{folder} has no {name}"):
        load_tokenizer(folder)


def test_a_tokenizer_without_a_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no chat template"):
        load_tokenizer(folder)


def ids(*tokens):
    return {small_tokenizer().convert_tokens_to_ids(token) for token in tokens}


QWEN = ids("<|im_end|>", "<|endoftext|>")  # the two that Qwen2.5's base models end with


@pytest.mark.parametrize(
    ("generation", "model", "more"),
    [
        (None, None, set()),
        ({}, {}, set()),
        ({"eos_token_id": 3}, None, {3}),
        ({"eos_token_id": [3, 4]}, None, {3, 4}),
        (None, {"eos_token_id": 5}, {5}),
        ({"eos_token_id": [3]}, {"eos_token_id": 5}, {3, 5}),
        ({"eos_token_id": None}, {"eos_token_id": None}, set()),
        ({"eos_token_id": 0}, None, {0}),
    ],
)
def test_every_id_that_ends_a_response(folder, generation, model, more):
    """The tokenizer's, the generation config's, the model config's and Qwen2.5's two, each once and in order."""
    for name, content in (("generation_config.json", generation), ("config.json", model)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    assert stop_ids(load_tokenizer(folder), folder) == tuple(sorted(QWEN | more))


def test_a_vocabulary_without_qwens_ends(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    assert stop_ids(tokenizer, tmp_path) == (1,)
    without_end = PreTrainedTokenizerFast(tokenizer_object=core)
    assert stop_ids(without_end, tmp_path) == ()
