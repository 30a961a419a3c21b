"""The trainer's tokenizer, for a trainer that sends tokens. From a local folder only, and only where it is needed."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossthink.errors import ConfigError
from crossthink.tokenizer_folder import read_tokenizer
from reward_server.scoring.extract import CLOSE, OPEN


class Tokenizer:
    """Text of tokens, tokens of text, chat messages as a prompt.

    Args:
        folder: with the tokenizer's files, its chat template among them where prompts are messages.

    Raises:
        ConfigError: no such folder, damaged files, or the package `transformers` is not installed.
    """

    def __init__(self, folder: Path | str):
        if not Path(folder).is_dir():
            raise ConfigError(f"tokenizer={folder}: no such folder. Give the folder of the policy's tokenizer.")
        try:
            # By name, as nothing else of the reward server may depend on it (and through it, perhaps, on torch).
            transformers = importlib.import_module("transformers")
        except ModuleNotFoundError as error:
            raise ConfigError("tokenizer= needs the package 'transformers': pip install transformers") from error
        try:
            self._tokenizer: Any = read_tokenizer(
                transformers, Path(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the tokenizers library raises bare Exception for a file that it cannot read
            raise ConfigError(f"tokenizer={folder} cannot be read: {error}") from error
        special = sorted(set(self._tokenizer.all_special_tokens) - {OPEN, CLOSE}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self.start: str = self._tokenizer.bos_token or ""

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt that the chat template makes, with the reply's opening."""
        return self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """The text of every sequence, special tokens included."""
        return self._tokenizer.batch_decode(
            [list(ids) for ids in sequences], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def round_trip(self, texts: Sequence[str]) -> list[str]:
        """Every text as its tokens decode again: some tokenizers normalise what they are given."""
        return self.decode(self._tokenizer(list(texts), add_special_tokens=False)["input_ids"])

    def without_special(self, text: str) -> str:
        """`text` without special tokens; the think tags stay, whatever the tokenizer calls them."""
        return self._special.sub("", text)
