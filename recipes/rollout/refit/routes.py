"""How weights get to a server: by broadcasts where both sides have the same libraries, else by files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipes.rollout.interface import RefitError
from recipes.rollout.refit.offer import COLLECTIVE, FILES
from recipes.rollout.refit.servers import Peer


@dataclass(frozen=True)
class Own:
    """What the trainer's side is; see `Peer`."""

    torch: str
    nccl: str | None
    backend: str
    machine: str


@dataclass(frozen=True)
class Route:
    """The way to one server: the transport, for files the folder below which they are written, and why not broadcasts
    although they were preferred."""

    transport: str
    folder: Path | None = None
    instead: str | None = None


def choose(url: str, peer: Peer, own: Own, transport: str, weights_dir: str | None) -> Route | str:
    """The way to a server, or why there is none.

    Args:
        url: of the server, for messages.
        peer: what it says of itself.
        own: this side.
        transport: collective, files or auto.
        weights_dir: stated by the user as a folder that both sides see; None: none.

    Raises:
        RefitError: transport=collective, and the libraries differ.
    """
    differing = difference(own, peer)
    if differing is None and transport != FILES:
        return Route(COLLECTIVE)
    if transport == COLLECTIVE:
        raise RefitError(
            f"transport=collective: {url} cannot be reached by broadcasts: {differing}. Install the same on both "
            "sides, or use transport=files."
        )
    instead = differing if transport != FILES else None
    return by_files(peer, own, weights_dir, instead)


def by_files(peer: Peer, own: Own, weights_dir: str | None, instead: str | None) -> Route | str:
    """The way by files, or why there is none. `instead`: why broadcasts do not do."""
    if weights_dir is None and peer.machine != own.machine:
        why = f"{instead}, and files" if instead else "files"
        return f"{why} do not reach another machine without a weights_dir that both sides see"
    return Route(FILES, Path(weights_dir or peer.weights_dir), instead)


def difference(own: Own, peer: Peer) -> str | None:
    """Why the two sides cannot broadcast to each other; None: they can."""
    pairs: list[tuple[str, str | None, str | None]] = [
        ("torch", own.torch, peer.torch),
        ("backend", own.backend, peer.backend),
    ]
    if own.backend == peer.backend == "nccl":
        pairs.append(("NCCL", own.nccl, peer.nccl))
    found = [f"{what} is {here} here and {there} there" for what, here, there in pairs if here != there]
    return ", ".join(found) or None
