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

    Args:
        folder: what `write_manifest` was called with.
        remedy: what to do where something was changed: a whole sentence.

    Returns:
        The manifest.

    Raises:
        DamagedError: a file is missing or changed.
        UserError: they are somebody else's.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedError(f"{folder} has no {MANIFEST}: it is not a checkpoint of this program.")
    if hasattr(os, "getuid") and path.stat().st_uid not in (os.getuid(), 0):
        raise UserError(f"{folder} belongs to another user. Copy it if you trust it; checkpoints hold pickles.")
    try:
        manifest = json.loads(path.read_bytes())
        files = manifest["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} was changed since it was saved. {remedy}") from error
    for name, digest in files:
        file = folder / name
        if not file.is_file() or sha256_file(file) != digest:
            state = "was changed" if file.is_file() else "is missing"
            raise DamagedError(f"{file} {state} since it was saved. {remedy}")
    return manifest
