"""Tokenizers of model folders, and what ends a response."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from transformers import PreTrainedTokenizerBase

from crossthink.errors import UserError
from crossthink.tokenizer_folder import read_tokenizer
from recipes.models.model_folder import check_tokenizer_files

# Qwen2.5's base models know both; its config names only one of them as the end.
TURN_ENDS = ("<|im_end|>", "<|endoftext|>")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        UserError: the folder has none, a damaged one, or one without a chat template; says which file.
    """
    check_tokenizer_files(folder)
    try:
        tokenizer = read_tokenizer(transformers, folder)
    except Exception as error:  # the tokenizers library raises bare Exception for a file that it cannot read
        raise UserError(f"The tokenizer of {folder} cannot be read: {error}. Copy its files again.") from error
    if not tokenizer.chat_template:
        raise UserError(f"The tokenizer of {folder} has no chat template. Add chat_template.jinja to the folder.")
    return tokenizer


def stop_ids(tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[int, ...]:
    """Every id that ends a response: the tokenizer's, the generation config's, and Qwen2.5's two."""
    found = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            stated = json.loads((folder / name).read_text("utf-8")).get("eos_token_id")
            found |= set(stated if isinstance(stated, list) else [stated])
    vocabulary = tokenizer.get_vocab()
    found |= {vocabulary[token] for token in TURN_ENDS if token in vocabulary}
    return tuple(sorted(found - {None}))
