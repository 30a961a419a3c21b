"""Sorted arrays as look-up tables; arrays in a plain file (.npz, no pickle) that says which rules made it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from crossthink.errors import UserError
from crossthink.files import atomic_file

_VERSION = "version"


def look_up(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs `(i, j)` with `keys[i] == table[j]`, as two int64 arrays ordered by i and j; `table` is ascending."""
    left, right = (np.searchsorted(table, keys, side) for side in ("left", "right"))
    return ragged(left, right - left)


def ragged(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranges `first[i], first[i] + 1, ...` of `counts[i]` numbers each, laid end to end, and the i of each one."""
    which = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return which, np.arange(len(which)) + (first - before)[which]


def save_arrays(path: Path | str, version: str, arrays: dict[str, np.ndarray]) -> None:
    """Write `arrays` to `path`, whole or not at all."""
    with atomic_file(path, "wb") as handle:
        np.savez(handle, **{_VERSION: np.array(version)}, **arrays)  # type: ignore[arg-type]  # its flag is no array


def load_arrays(path: Path | str, version: str) -> dict[str, np.ndarray]:
    """The arrays that `save_arrays` wrote under the same `version`.

    Raises:
        UserError: the file is damaged, or was written under another version.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = str(arrays.pop(_VERSION))
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged, or no file of ours ({error}). Remove it; it will be made anew.") from error
    if found != version:
        raise UserError(f"{path} was written by another version ({found}, now {version}). Remove it; it is made anew.")
    return arrays
