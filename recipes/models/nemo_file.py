"""`.nemo` files: a tar archive of what `recipes.models.nemo_folder` describes."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from crossthink.errors import UserError
from crossthink.files import atomic_file
from recipes.models.nemo_folder import HUGGINGFACE, MODEL_CONFIG, WEIGHTS

SUFFIX = ".nemo"


def is_nemo_file(path: Path) -> bool:
    """Whether the path names a `.nemo` file."""
    return path.suffix == SUFFIX and path.is_file()


def pack(folder: Path, path: Path) -> None:
    """Write a folder into a `.nemo` file, whole or not at all."""
    with atomic_file(path, "wb") as handle, tarfile.open(fileobj=handle, mode="w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.add(file, arcname=f"./{file.relative_to(folder)}", recursive=False)


def unpack(path: Path, folder: Path) -> None:
    """Read config, weights and Hugging Face files of a `.nemo` file, packed or gzipped, into an existing folder.

    Whatever else the archive holds is left in it, links and paths that lead out of it among them.

    Raises:
        UserError: it is no archive, is cut off, or holds no distributed checkpoint; names the file.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                inside = _inside(member)
                if inside is None:
                    continue
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None, "a regular file has content"
                with source, open(target, "wb") as handle:
                    shutil.copyfileobj(source, handle, 1 << 20)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is no whole .nemo file: {error}") from error
    if not (folder / MODEL_CONFIG).is_file():
        raise UserError(f"{path} holds no {MODEL_CONFIG}: it is no .nemo file.")
    if not (folder / WEIGHTS).is_dir():
        raise UserError(
            f"{path} holds no {WEIGHTS}/: only models on megatron-core (mcore_gpt: true) have a distributed checkpoint."
        )


def _inside(member: tarfile.TarInfo) -> Path | None:
    """Where a member belongs; None for what is not read."""
    parts = [part for part in PurePosixPath(member.name).parts if part != "."]
    wanted = parts == [MODEL_CONFIG] or (len(parts) == 2 and parts[0] in (WEIGHTS, HUGGINGFACE))
    return Path(*parts) if wanted and member.isreg() and ".." not in parts else None
