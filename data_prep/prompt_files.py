r"""Prompts as text files with placeholders: a folder of them read and checked, a text filled in one pass.

A placeholder is one of the set's names in braces. Other braces need no escaping where they are LaTeX's (`\boxed{}`,
`\frac{a}{b}`) or JSON's; a single word in braces is refused as a misspelt placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossthink.errors import ConfigError

# What looks like a placeholder: braces that are no argument of a LaTeX command, as those of \boxed{} and \frac{a}{b}.
_LOOKS_LIKE_ONE = re.compile(r"(?<![\\\w}])\{(\w+)\}")


def read_prompts(root: Path, placeholders: Mapping[str, Sequence[str]], key: str) -> dict[str, str]:
    """Read one text file for each name of a set of prompts.

    The files are UTF-8; line feeds at a file's end do not belong to its text.

    Args:
        root: where they lie, as `NAME.txt`.
        placeholders: the prompts' names, each with the placeholders that it must hold; no others are allowed.
        key: the setting that named the folder, for messages.

    Returns:
        The texts by name.

    Raises:
        ConfigError: the folder or a file is missing, a file is not UTF-8, lacks a placeholder or holds an unknown one.
    """
    files = ", ".join(f"{name}.txt" for name in placeholders)
    if not root.is_dir():
        raise ConfigError(f"{key}={root} is not a folder. It must hold {files}.")
    known = sorted({one for needed in placeholders.values() for one in needed})
    texts = {}
    for name, needed in placeholders.items():
        path = root / f"{name}.txt"
        try:
            texts[name] = path.read_text(encoding="utf-8-sig").rstrip("\n")
        except FileNotFoundError:
            raise ConfigError(f"Prompt file {path} is missing. A folder of prompts must hold {files}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"Prompt file {path} cannot be read as UTF-8: {error}.") from error
        _check(path, texts[name], needed, known)
    return texts


def cut(text: str, names: Sequence[str]) -> list[str]:
    """`text` cut at the placeholders of these names: literal, name, literal, name, ..., literal."""
    return re.split(rf"\{{({'|'.join(names)})\}}", text) if names else [text]


def fill(parts: Sequence[str], values: Mapping[str, str]) -> str:
    """The parts of `cut` with a value in each name's place. What is put in stays as it is, placeholders and all."""
    filled = list(parts)
    filled[1::2] = [values[name] for name in parts[1::2]]
    return "".join(filled)


def _check(path: Path, text: str, needed: Sequence[str], known: Sequence[str]) -> None:
    found = {*cut(text, known)[1::2], *_LOOKS_LIKE_ONE.findall(text)}
    allowed = " and ".join(f"{{{one}}}" for one in needed) or "none"
    if unknown := sorted(found.difference(needed)):
        raise ConfigError(
            f"Prompt file {path} holds {{{unknown[0]}}}, which is no placeholder there. Allowed: {allowed}."
        )
    if missing := [one for one in needed if one not in found]:
        raise ConfigError(f"Prompt file {path} lacks the placeholder {{{missing[0]}}}. Needed: {allowed}.")
