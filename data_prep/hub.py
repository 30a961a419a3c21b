"""Downloads a source or a benchmark from the Hugging Face Hub, into the hub client's own cache.

`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN` mean what they mean to every program that uses the hub.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from crossthink.errors import UserError
from data_prep.benchmarks.base import Benchmark
from data_prep.sources.base import Source

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)")


class NoAccess(UserError):
    """The repository is gated and this account has not been let in."""


@dataclass(frozen=True)
class Fetched:
    """A source on this machine.

    Attributes:
        files: its data files, in the order of `Source.files` and then of their names.
        revision: the full commit hash that they are from.
    """

    files: list[Path]
    revision: str


def fetch(source: Source, revision: str | None = None) -> Fetched:
    """Download what is not in the cache yet, and say where it is and which commit it is from.

    Args:
        source: what to download; its `files` say which files of the repository.
        revision: commit, branch or tag; None takes the source's pinned one, or where it has none the newest.

    A hub that cannot be reached is no error where the cache holds the files whole: then the revision is the cached one,
    which need not be the newest any more.

    Raises:
        NoAccess: the repository is gated.
        UserError: no such repository or revision, no access to it, no connection and no copy, no disk space, or a
            repository without the expected files. The message names source and repository, and the way round.
    """
    # Slow to import, and it reads its environment variables only then: a prep from local files needs neither.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError

    wanted = revision or source.revision
    try:
        snapshot = snapshot_download(
            source.hf_id,
            repo_type="dataset",
            revision=wanted,
            allow_patterns=[pattern for patterns in source.files for pattern in patterns.split("|")],
            library_name="crossthink",
        )
    # HTTPError is that of the client's HTTP library, in old versions an OSError; RuntimeError is what hf_xet raises.
    except (HTTPError, OSError, RuntimeError) as error:
        kind = NoAccess if isinstance(error, GatedRepoError) else UserError
        raise kind(f"{_what_happened(error, source, wanted)} {_way_round(source)}") from error
    folder = Path(snapshot)
    # The client names the folder of a snapshot after its commit, whatever it was asked for.
    return Fetched([folder / name for name in _choose(folder, source)], folder.name)


def _choose(folder: Path, source: Source) -> list[str]:
    """The names of the source's files in a snapshot, each pattern's sorted.

    Raises:
        UserError: a pattern matches nothing, or not every part of a set `NAME-00000-of-00003`. An older client takes a
            snapshot that a killed download left behind for a whole one.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    chosen: list[str] = []
    for patterns in source.files:
        alternatives = ([name for name in names if fnmatchcase(name, pattern)] for pattern in patterns.split("|"))
        found = next(filter(None, alternatives), [])
        lacking = _lacking(found)
        if not found or lacking:
            raise UserError(
                f"{_called(source)}: revision {folder.name} of {source.hf_id} has no file "
                f"{lacking or patterns.replace('|', ' or ')}, or it was not downloaded whole and the hub cannot be "
                f"reached. {_other_revision(source)} {_way_round(source)}"
            )
        chosen += found
    return chosen


def _lacking(names: Sequence[str]) -> str | None:
    """The first part that a set of files `NAME-00000-of-00003` lacks, or None."""
    for match in filter(None, map(_SHARD.fullmatch, names)):
        start, _, total, end = match.groups()
        for part in range(int(total)):
            name = f"{start}-{part:05}-of-{total}{end}"
            if name not in names:
                return name
    return None


def _what_happened(error: Exception, source: Source, revision: str | None) -> str:
    """What went wrong, in a sentence or two."""
    from huggingface_hub import constants, errors

    repository = f"dataset {source.hf_id} on {constants.ENDPOINT}"
    # Where the cache cannot help either, the client hides the first error behind that one.
    first = (error.__cause__ or error) if isinstance(error, errors.LocalEntryNotFoundError) else error
    status = getattr(getattr(first, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{_called(source)}: {repository} is gated. Accept its licence at "
            f"{constants.ENDPOINT}/datasets/{source.hf_id} and set HF_TOKEN to a token of that account."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{_called(source)}: there is no {repository}, or it is private and HF_TOKEN is not set to a token that "
            "may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{_called(source)}: {repository} has no revision {revision}."
    if status in (401, 403):
        return f"{_called(source)}: access to {repository} was refused ({_one_line(first)}). Check HF_TOKEN."
    if isinstance(error, errors.LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the hub is out of reach ({_one_line(first)})"
        return f"{_called(source)}: {repository} is not whole in the cache {constants.HF_HUB_CACHE}, and {why}."
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{_called(source)}: {repository} cannot be written to {constants.HF_HUB_CACHE} ({error.strerror}). "
            "HF_HOME chooses another folder."
        )
    return f"{_called(source)}: downloading {repository} failed ({_one_line(error)})."


def _way_round(source: Source) -> str:
    key = "benchmarks_path=FOLDER" if isinstance(source, Benchmark) else f"sources.{source.name}.path=FILE"
    return f"Or give a copy of your own: {key}."


def _other_revision(source: Source) -> str:
    if isinstance(source, Benchmark):
        return "Connect and try again."
    return f"Choose another revision (sources.{source.name}.revision=COMMIT) or connect."


def _called(source: Source) -> str:
    return f"{'Benchmark' if isinstance(source, Benchmark) else 'Source'} {source.name}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
