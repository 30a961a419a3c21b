"""Tokenizer folders that transformers 4 or 5 wrote, read by either."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

# What transformers 5 calls the class that 4 calls PreTrainedTokenizerFast.
_GENERIC = "TokenizersBackend"


def read_tokenizer(transformers: ModuleType, folder: Path, **options: Any) -> Any:
    """`AutoTokenizer.from_pretrained`, except for what transformers 5 writes and 4 cannot read.

    Args:
        transformers: the package; handed in, because the reward server imports it only where it is asked for.
        folder: with tokenizer.json and tokenizer_config.json.
        options: of `from_pretrained`.

    Raises:
        Exception: whatever transformers or tokenizers raise for files that they cannot read.
    """
    path = folder / "tokenizer_config.json"
    stated = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    names = stated.get("extra_special_tokens")
    if isinstance(names, list):  # additional_special_tokens to transformers 4, whose tokens of this name have names
        options |= {"extra_special_tokens": {}, "additional_special_tokens": names}
    generic = stated.get("tokenizer_class") == _GENERIC and not hasattr(transformers, _GENERIC)
    kind = transformers.PreTrainedTokenizerFast if generic else transformers.AutoTokenizer
    return kind.from_pretrained(str(folder), **options)
