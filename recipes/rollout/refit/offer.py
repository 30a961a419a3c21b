"""What a trainer tells a rollout server about weights that are on their way: an `Offer`, which travels as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.checksums import KINDS

COLLECTIVE = "collective"
FILES = "files"
BACKENDS = ("gloo", "nccl")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST = 2**53

TensorSpec = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape."""


@dataclass(frozen=True)
class Group:
    """Where a collective refit meets.

    Attributes:
        name: of the trainer's side; a server that has joined it before stays joined.
        host: where the first actor rank keeps the store.
        port: its TCP port.
        world: processes that are asked to come, the sender included.
        first: the rank of this server's first seat; the sender is rank 0.
        turn: number of the meeting under this name.
        backend: gloo for tensors in main memory, nccl for tensors on a GPU.
    """

    name: str
    host: str
    port: int
    world: int
    first: int
    turn: int = 0
    backend: str = "gloo"


@dataclass(frozen=True)
class Offer:
    """One refit, as one server is asked to take part in it.

    Attributes:
        version: of the weights.
        transport: collective or files.
        bucket_bytes: largest message, or largest shard of several tensors.
        checksum: xxh3 or sum64.
        tensors: all of them; None: unknown before the sender's first pass.
        timeout_s: seconds for getting ready, and again for the weights.
        group: for collective.
        folder: for files.
    """

    version: int
    transport: str
    bucket_bytes: int
    checksum: str
    tensors: list[TensorSpec] | None
    timeout_s: float
    group: Group | None = None
    folder: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Offer:
        """Read an offer from what a wire brought.

        Raises:
            RefitError: a field is missing, unknown or impossible; names it, its value and what is allowed.
        """
        found = _object(value, cls, "offer")
        transport = _one_of(found, "transport", (COLLECTIVE, FILES))
        offer = cls(
            version=_int(found, "version", 0),
            transport=transport,
            bucket_bytes=_int(found, "bucket_bytes", 1),
            checksum=_one_of(found, "checksum", KINDS),
            tensors=_tensors(found.get("tensors")),
            timeout_s=_seconds(found, "timeout_s"),
            group=None if found.get("group") is None else _group(found["group"]),
            folder=None if found.get("folder") is None else _text(found, "folder"),
        )
        if transport == COLLECTIVE and offer.group is None:
            raise RefitError("group: missing; a collective refit needs one.")
        if transport == FILES and offer.folder is None:
            raise RefitError("folder: missing; a refit by files needs one.")
        return offer


def spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    """Name, dtype and shape of a tensor.

    Raises:
        RefitError: weights of this dtype do not travel.
    """
    if tensor.dtype not in DTYPE_NAMES:
        raise RefitError(f"{name}: weights of type {tensor.dtype} do not travel; allowed are {', '.join(DTYPES)}.")
    return name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)


def read_spec(value: Any) -> TensorSpec:
    """Name, dtype and shape out of JSON.

    Raises:
        RefitError: it is none; shows it.
    """
    if isinstance(value, list | tuple) and len(value) == 3:
        name, dtype, shape = value
        if (
            isinstance(name, str)
            and name
            and isinstance(dtype, str)
            and dtype in DTYPES
            and isinstance(shape, list | tuple)
        ):
            dims = tuple(shape)
            if all(type(dim) is int and 0 <= dim < LARGEST for dim in dims):
                return name, dtype, dims
    raise RefitError(f"tensors: {_show(value)} is no [name, dtype, shape]; dtypes are {', '.join(DTYPES)}.")


def check_spec(spec: TensorSpec, wanted: Mapping[str, TensorSpec] | None) -> None:
    """Hold a tensor that came to what was announced.

    Raises:
        RefitError: it was not announced, or with another type or shape.
    """
    if wanted is not None and wanted.get(spec[0]) != spec:
        raise RefitError(f"{spec[0]} came as {spec[1:]}; announced was {wanted.get(spec[0], ('nothing',) * 2)[1:]}.")


def _group(value: Any) -> Group:
    found = _object(value, Group, "group")
    group = Group(
        name=_text(found, "name"),
        host=_text(found, "host"),
        port=_int(found, "port", 1, 65535),
        world=_int(found, "world", 2),
        first=_int(found, "first", 1),
        turn=_int(found, "turn", 0) if "turn" in found else 0,
        backend=_one_of(found, "backend", BACKENDS) if "backend" in found else "gloo",
    )
    if group.first >= group.world:
        raise RefitError(f"first: {group.first} is no rank of a group of {group.world}; allowed is less than world.")
    return group


def _tensors(value: Any) -> list[TensorSpec] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise RefitError(f"tensors: {_show(value)} is no list of [name, dtype, shape].")
    specs = [read_spec(one) for one in value]
    names = [name for name, _, _ in specs]
    if len(set(names)) != len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise RefitError(f"tensors: {twice!r} stands there twice.")
    return specs


def _object(value: Any, kind: type, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RefitError(f"{where}: {_show(value)} is no object.")
    allowed = [field.name for field in fields(kind)]
    for name in value:
        if name not in allowed:
            raise RefitError(f"{name}: unknown field of the {where}; allowed are {', '.join(allowed)}.")
    return value


def _int(found: Mapping[str, Any], name: str, least: int, most: int = LARGEST) -> int:
    value = found.get(name)
    if type(value) is not int or not least <= value <= most:
        raise RefitError(f"{name}: {_show(value)}; allowed is a whole number from {least} to {most}.")
    return value


def _seconds(found: Mapping[str, Any], name: str) -> float:
    value = found.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1e7:
        raise RefitError(f"{name}: {_show(value)}; allowed is a number of seconds above 0.")
    return float(value)


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise RefitError(f"{name}: {_show(value)}; allowed is a text that is not empty.")
    return value


def _one_of(found: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = found.get(name)
    if not isinstance(value, str) or value not in allowed:
        raise RefitError(f"{name}: {_show(value)}; allowed are {', '.join(allowed)}.")
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
