"""How many tokens a prompt has, by the model's own tokenizer and chat template. Without torch or transformers."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossthink.errors import ConfigError
from crossthink.files import sha256_file

if TYPE_CHECKING:
    from jinja2 import Template

TOKENIZER, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
_NAMES = f"{TOKENIZER}, {CONFIG} or {TEMPLATE}"
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


class PromptMeter:
    """Counts the tokens of chat prompts with the reply's opening, as a trainer sends them to the model.

    Args:
        path: a Hugging Face model folder (tokenizer.json with a chat template), or a tokenizer.json alone, whose
            messages are then measured as plain text, a line each.
        max_tokens: the budget; not enforced here.

    Raises:
        ConfigError: the files are missing or damaged, or the packages for them are.
    """

    def __init__(self, path: str, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        folder = Path(path)
        file = folder / TOKENIZER if folder.is_dir() else folder
        if not file.is_file():
            raise ConfigError(f"prompts.tokenizer={path} holds no {TOKENIZER}. Give a folder with {_NAMES}.")
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise ConfigError("prompts.tokenizer= needs the package 'tokenizers': pip install tokenizers") from error
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a file that it cannot read
            raise ConfigError(f"prompts.tokenizer={path}: {file.name} cannot be read: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._path = path
        self._template: Template | None = None
        self._names: dict[str, Any] = {}
        if folder.is_dir():
            self._template, self._names = _chat_template(folder)

    def count(self, prompts: list[list[dict[str, str]]]) -> list[int]:
        """Tokens of every prompt.

        Raises:
            ConfigError: the chat template fails, or refuses a prompt such as one with a system message.
        """
        texts = [self._text(messages) for messages in prompts]
        return [len(encoding) for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def _text(self, messages: list[dict[str, str]]) -> str:
        if self._template is None:
            return "\n".join(message["content"] for message in messages)
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._names)
        except ConfigError:
            raise
        except Exception as error:  # a template is a program: it may fail in any way
            raise ConfigError(f"prompts.tokenizer={self._path}: its chat template fails ({error}).") from error


def describe(path: str | None) -> dict[str, str] | None:
    """SHA-256 of the files that decide what a `PromptMeter` counts, by name; None without a tokenizer."""
    if path is None:
        return None
    folder = Path(path)
    files = [folder / name for name in (TOKENIZER, CONFIG, TEMPLATE)] if folder.is_dir() else [folder]
    return {file.name: sha256_file(file) for file in files if file.is_file()}


def _chat_template(folder: Path) -> tuple[Template, dict[str, Any]]:
    """The compiled template and the names that it may use besides the messages."""
    config_file = folder / CONFIG
    try:
        config = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{config_file} is not JSON ({error}).") from error
    try:
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ModuleNotFoundError as error:
        raise ConfigError("prompts.tokenizer= needs the package 'jinja2': pip install jinja2") from error
    # The settings, functions and names under which model authors write their templates (those of transformers).
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, **{"ensure_ascii": False, **how})
    environment.globals["raise_exception"] = _refuse
    # Always the same day: a pool does not depend on when it was made.
    environment.globals["strftime_now"] = datetime(2025, 1, 1).strftime
    names: dict[str, Any] = {"tools": None, "documents": None}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        names[name] = value.get("content", "") if isinstance(value, dict) else value or ""
    try:
        return environment.from_string(_template_text(folder, config)), names
    except (TemplateSyntaxError, SyntaxError) as error:
        raise ConfigError(f"prompts.tokenizer={folder}: its chat template cannot be compiled ({error}).") from error


def _template_text(folder: Path, config: dict[str, Any]) -> str:
    file = folder / TEMPLATE
    text = file.read_text("utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(text, list):  # several, each with its name
        text = {one.get("name"): one.get("template") for one in text}.get("default")
    if not isinstance(text, str):
        raise ConfigError(f"prompts.tokenizer={folder} has no chat template. Give a folder with {_NAMES}.")
    # The tags of transformers around what the model wrote change no text.
    return _GENERATION.sub(lambda tag: f"{tag[1]}{'endif' if tag[2] else 'if true'}{tag[3]}", text)


def _refuse(message: str) -> None:
    raise ConfigError(f"The chat template refuses the prompt: {message}. A template without a system role needs an "
                      "empty system.txt in prompts.folder.")  # fmt: skip
