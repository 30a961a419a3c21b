"""Folders that list the SHA-256 of every file in them, because torch's checkpoint metadata is a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from crossthink.errors import UserError
from crossthink.files import sha256_file, write_json

MANIFEST = "manifest.json"


class DamagedError(UserError):
    """A file of the folder is missing or was changed since it was saved."""


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write `manifest.json`: `facts`, and the SHA-256 of every file in the folder."""
    files = {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(folder / MANIFEST, facts | {"files": files})


def verify_manifest(folder: Path, remedy: str) -> dict[str, Any]:
    """Check the owner and the SHA-256 of every file that the folder's manifest lists.

    The folders are checked too: whose they are may put other files in place of these. Root's count as one's own.

    Args:
        folder: what `write_manifest` was called with.
        remedy: what to do where something was changed: a whole sentence.

    Returns:
        The manifest.

    Raises:
        DamagedError: a file is missing or changed.
        UserError: one of them, or a folder that it lies in, is somebody else's.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedError(f"{folder} has no {MANIFEST}: it is not a checkpoint of this program.")
    _check_owner(folder, folder)
    _check_owner(path, folder)
    try:
        manifest = json.loads(path.read_bytes())
        files = manifest["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} was changed since it was saved. {remedy}") from error
    for name, digest in files:
        file = folder / name
        if not file.is_file():
            raise DamagedError(f"{file} is missing since it was saved. {remedy}")
        for inside in (file, *(folder / parent for parent in Path(name).parents)):
            _check_owner(inside, folder)
        if sha256_file(file) != digest:
            raise DamagedError(f"{file} was changed since it was saved. {remedy}")
    return manifest


def _check_owner(path: Path, folder: Path) -> None:
    """Refuse what is neither this user's nor root's. `folder` is what the user may copy."""
    if not hasattr(os, "getuid"):
        return
    owner, allowed = path.stat().st_uid, sorted({os.getuid(), 0})
    if owner not in allowed:
        raise UserError(
            f"{path} belongs to another user (id {owner}; allowed: {' and '.join(map(str, allowed))}). Copy {folder} "
            "if you trust it; checkpoints hold pickles."
        )
