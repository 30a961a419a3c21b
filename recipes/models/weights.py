"""Hugging Face model folders: tensors and slices of tensors out of safetensors, and tensors into them one by one."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossthink.errors import UserError
from crossthink.files import write_json
from recipes.models.model_folder import INDEX, SINGLE, read_object, weight_files

CONFIG = "config.json"
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
# safetensors' names of the types that weights come in.
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class SafetensorsFolder:
    """Reads tensors by name from a folder with one safetensors file or a sharded index.

    A file is open only while one tensor is read: safetensors maps it into memory, and the pages of an open mapping stay
    with the process. Opening costs about a fifth of a millisecond.
    """

    def __init__(self, folder: Path) -> None:
        """Raises:
        UserError: the folder holds no safetensors weights.
        """
        self.folder = folder
        self.files: dict[str, str]
        if (folder / INDEX).is_file():
            self.files = weight_files(folder)
        elif (folder / SINGLE).is_file():
            with self._open(SINGLE) as handle:
                self.files = dict.fromkeys(handle.keys(), SINGLE)
        else:
            raise UserError(
                f"{folder} holds neither {SINGLE} nor {INDEX}. Weights are read from safetensors only; convert others "
                "with transformers' save_pretrained(safe_serialization=True)."
            )

    def check_names(self, wanted: Sequence[str], ignored: Sequence[str] = ()) -> None:
        """Open every file, and compare the tensors in it with the index and with what the model needs.

        Args:
            wanted: the tensors that the model's config asks for.
            ignored: ends of names that may be there and are not read.

        Raises:
            UserError: a file is cut off or damaged, or a tensor is missing or too many; names file and tensor.
        """
        for file in sorted(set(self.files.values())):
            with self._open(file) as handle:
                inside = set(handle.keys())
            listed = {name for name, place in self.files.items() if place == file}
            for name in sorted(listed - inside):
                raise UserError(f"{self.folder / file} gives no tensor '{name}', although {INDEX} says so.")
            for name in sorted(inside - listed):
                raise UserError(f"{self.folder / file} holds the tensor '{name}', which {INDEX} does not list.")
        missing = [name for name in wanted if name not in self.files]
        known = set(wanted)
        extra = [name for name in sorted(self.files) if name not in known and not name.endswith(tuple(ignored))]
        if missing:
            raise UserError(
                f"{self.folder} has no tensor '{missing[0]}'{_and_more(missing)}, which config.json asks for. The "
                "weights and the config are not of one model, or the download is incomplete."
            )
        if extra:
            raise UserError(
                f"{self.folder / self.files[extra[0]]} holds a tensor '{extra[0]}'{_and_more(extra)} that config.json "
                "has no place for. The weights and the config are not of one model."
            )

    def shape_and_dtype(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        """Of one tensor, from its file's header.

        Raises:
            UserError: no such tensor, its file is damaged, or its type is none of float32, bfloat16 and float16.
        """
        with self._open_for(name) as handle:
            found = self._slice(handle, name)
            return tuple(found.get_shape()), self._dtype(name, found.get_dtype())

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            UserError: no such tensor, or its file is damaged.
        """
        with self._open_for(name) as handle:
            return self._slice(handle, name)[:]

    def read_part(self, name: str, part: tuple[slice, ...], shape: tuple[int, ...]) -> Tensor:
        """A slice of one tensor; only its pages of the file are read, when it is looked at.

        Args:
            name: the tensor.
            part: rows, or rows and columns, of it.
            shape: the whole tensor's shape, as the model's config asks for it.

        Raises:
            UserError: no such tensor, its file is damaged, or it has another shape or a type that holds no weights.
        """
        with self._open_for(name) as handle:
            found = self._slice(handle, name)
            self._dtype(name, found.get_dtype())
            if tuple(found.get_shape()) != shape:
                raise UserError(
                    f"{self.folder / self.files[name]}: '{name}' has shape {tuple(found.get_shape())}, but config.json "
                    f"asks for {shape}. The weights and the config are not of one model."
                )
            return found[part]

    def _open(self, file: str) -> safe_open:
        try:
            return safe_open(self.folder / file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.folder / file} cannot be read as safetensors: {error}. Copy it again.") from error

    def _open_for(self, name: str) -> safe_open:
        if name not in self.files:
            raise UserError(f"{self.folder} has no tensor '{name}'. It is another model, or its index is incomplete.")
        return self._open(self.files[name])

    def _slice(self, handle: safe_open, name: str) -> Any:
        try:
            return handle.get_slice(name)
        except SafetensorError as error:
            raise UserError(f"{self.folder / self.files[name]} gives no tensor '{name}': {error}") from error

    def _dtype(self, name: str, stated: str) -> torch.dtype:
        if stated not in DTYPES:
            raise UserError(
                f"{self.folder / self.files[name]}: '{name}' is of type {stated}; weights are read from "
                f"{', '.join(DTYPES)}. Quantised models cannot be trained."
            )
        return DTYPES[stated]


@dataclass(frozen=True)
class TensorPlan:
    """A tensor that is going to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Of its elements in the file."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def plan_files(tensors: Sequence[TensorPlan], limit_bytes: float) -> list[list[TensorPlan]]:
    """Cut a sequence of tensors into files of at most `limit_bytes`; a larger tensor has a file of its own."""
    files: list[list[TensorPlan]] = []
    room = 0.0
    for tensor in tensors:
        if not files or tensor.bytes > room:
            files.append([])
            room = limit_bytes
        files[-1].append(tensor)
        room -= tensor.bytes
    return files


def file_name(number: int, count: int) -> str:
    """Hugging Face's name of file `number`, from 1, of `count`."""
    return SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


class SafetensorsWriter:
    """Writes one safetensors file tensor by tensor, each in as many pieces as the caller likes.

    safetensors' own `save_file` takes all tensors of a file at once, which for a file of 5 GB is 5 GB of memory. Source
    of the format: the safetensors README ("Format").
    """

    def __init__(self, path: Path, tensors: Sequence[TensorPlan]) -> None:
        """Open `path` and write the header that announces `tensors`, in the order in which they will come."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        position = 0
        for tensor in tensors:
            header[tensor.name] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [position, position + tensor.bytes],
            }
            position += tensor.bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
        self._left = position
        self._handle = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._handle.write(struct.pack("<Q", len(text)) + text)

    def write(self, piece: Tensor) -> None:
        """The next rows of the tensor that is due; of its type, on any device."""
        data = piece.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()
        self._handle.write(data)
        self._left -= data.nbytes

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.close()
        assert kind is not None or self._left == 0, f"{self._left} bytes of the announced tensors were not written"


def write_companions(folder: Path, like: Path, dtype: torch.dtype | None) -> None:
    """Copy config and tokenizer of the folder `like`; `dtype`, where given, is what the config then states."""
    config = read_object(like / CONFIG)
    stated = {key: str(dtype).removeprefix("torch.") for key in ("dtype", "torch_dtype") if key in config}
    if dtype is None or all(config[key] == value for key, value in stated.items()):
        shutil.copyfile(like / CONFIG, folder / CONFIG)
    else:
        write_json(folder / CONFIG, config | stated)
    for name in COMPANIONS:
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)


def write_index(folder: Path, files: Sequence[Sequence[TensorPlan]]) -> None:
    """The index of a folder of several files; none where one file holds everything."""
    if len(files) == 1:
        return
    weight_map = {t.name: file_name(n, len(files)) for n, tensors in enumerate(files, start=1) for t in tensors}
    total = sum(tensor.bytes for tensors in files for tensor in tensors)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
