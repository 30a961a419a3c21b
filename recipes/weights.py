"""Hugging Face model folders: safetensors in, safetensors out."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossthink.errors import UserError
from recipes.model_folder import INDEX, SINGLE, weight_files

COMPANIONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class SafetensorsFolder:
    """Reads tensors by name from a folder with one safetensors file or a sharded index; opens each file once."""

    def __init__(self, folder: Path) -> None:
        """Raises:
        UserError: the folder holds no safetensors weights.
        """
        self.folder = folder
        self._handles: dict[str, safe_open] = {}
        self.files: dict[str, str]
        if (folder / INDEX).is_file():
            self.files = weight_files(folder)
        elif (folder / SINGLE).is_file():
            self.files = dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        else:
            raise UserError(
                f"{folder} holds neither {SINGLE} nor {INDEX}. Weights are read from safetensors only; convert others "
                "with transformers' save_pretrained(safe_serialization=True)."
            )

    def _open(self, name: str) -> safe_open:
        if name not in self._handles:
            try:
                self._handles[name] = safe_open(self.folder / name, framework="pt")
            except (SafetensorError, OSError) as error:
                raise UserError(f"{self.folder / name} cannot be read as safetensors: {error}") from error
        return self._handles[name]

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            UserError: no such tensor, or its file is damaged.
        """
        if name not in self.files:
            raise UserError(
                f"{self.folder} has no tensor '{name}'. It is not a Qwen2 model, or its index is incomplete."
            )
        handle = self._open(self.files[name])
        try:
            return handle.get_tensor(name)
        except SafetensorError as error:
            raise UserError(f"{self.folder / self.files[name]} gives no tensor '{name}': {error}") from error


def save_hf_folder(folder: Path, weights: Iterable[tuple[str, Tensor]], like: Path) -> None:
    """Write a Hugging Face folder: `weights` as safetensors, config and tokenizer copied from the folder `like`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights}
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    for name in COMPANIONS:
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)
