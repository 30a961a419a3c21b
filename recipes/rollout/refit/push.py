"""One refit on the actor's first rank: passes over the weights until no server is left that needs another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from crossthink.errors import EXIT_RESUMABLE
from recipes.rollout.interface import RefitError
from recipes.rollout.refit.checksums import Summing, digest
from recipes.rollout.refit.meeting import Meeting
from recipes.rollout.refit.offer import COLLECTIVE, FILES, Offer, TensorSpec, spec_of
from recipes.rollout.refit.outlets import CollectiveOutlet, FilesOutlet, Outlet
from recipes.rollout.refit.routes import Own, Route, by_files, choose
from recipes.rollout.refit.servers import Peer, Servers

AUTO = "auto"
MOST_BREAKS = 2
"""Passes that may break off with all servers well before something else is tried."""


class Push:
    """Ask for passes with `next_pass`; in each, `send` every tensor, then `finish_pass`. Call `close` at the end.

    Args:
        servers: all of them.
        offer: what they are offered, without group, folder and transport.
        own: this side.
        transport: collective, files or auto.
        weights_dir: stated by the user, or None.
        meeting: gives this trainer's, for servers that are reached by broadcasts.
        say: tells the user, once each, of what goes otherwise than preferred.
    """

    def __init__(
        self,
        servers: Servers,
        offer: Offer,
        own: Own,
        transport: str,
        weights_dir: str | None,
        meeting: Callable[[], Meeting],
        say: Callable[[str], None],
    ):
        self.offer = offer
        self.transport: dict[str, str] = {}
        self.taken: list[str] = []
        self.lost: dict[str, str] = {}
        self.specs: list[TensorSpec] = []
        self.bytes = 0
        self.checksum: str | None = None
        self._servers, self._own, self._meeting, self._say = servers, own, meeting, say
        self._preferred, self._weights_dir = transport, weights_dir
        self._device = torch.device("cpu" if own.backend == "gloo" else f"cuda:{torch.cuda.current_device()}")
        self._peers: dict[str, Peer] = {}
        self._waiting: dict[str, Route] | None = None
        self._breaks = 0
        self._outlets: list[Outlet] = []
        self._summing: Summing | None = None
        self._fault: RefitError | None = None

    def next_pass(self) -> bool:
        """Settle the pass before, and begin another where servers wait for one. Returns whether they do.

        Raises:
            RefitError: no server has the weights and none can get them, with exit code 75; or transport=collective
                and the libraries differ; or weights of a type that does not travel.
        """
        if self._fault is not None:
            raise self._fault
        if self._waiting is None:
            self._waiting = self._find_routes()
        else:
            self._settle()
        while self._waiting:
            self._open(self._waiting)
            if any(outlet.broken is None for outlet in self._outlets):
                return True
            self._settle()
        if not self.taken:
            reasons = "; ".join(f"{url}: {why}" for url, why in self.lost.items())
            error = RefitError(f"No rollout server took the weights of version {self.offer.version}: {reasons}.")
            error.exit_code = EXIT_RESUMABLE
            raise error
        return False

    def send(self, name: str, tensor: Tensor) -> None:
        """The next tensor of the pass, which must keep its values while it is held here."""
        if self._fault is not None:
            return
        tensor = tensor.detach().to(self._device).contiguous()
        try:
            self.specs.append(spec_of(name, tensor))
        except RefitError as error:  # raised by `next_pass`: the other ranks are in the middle of the pass
            self._fault = error
            return
        self.bytes += tensor.nbytes
        if self._summing is not None:
            self._summing.add(name, tensor)
        for outlet in self._outlets:
            outlet.send(name, tensor)

    def finish_pass(self) -> None:
        """All tensors were sent."""
        if self._fault is not None or self._summing is None:
            return
        sums = self._summing.results()
        self.checksum = digest(sums)
        for outlet in self._outlets:
            outlet.finish(sums)

    def close(self, why: str) -> None:
        """Leave nothing behind. Servers that wait for the rest of a pass are told why it does not come."""
        outlets, self._outlets = self._outlets, []
        for outlet in outlets:
            outlet.close(why)
        if self._summing is not None:
            self._summing.close()
            self._summing = None

    def _find_routes(self) -> dict[str, Route]:
        routes: dict[str, Route] = {}
        for url, peer in self._servers.ask().items():
            if isinstance(peer, str):
                self.lost[url] = peer
                continue
            self._peers[url] = peer
            route = choose(url, peer, self._own, self._preferred, self._weights_dir)
            self._take(url, route, routes)
        return routes

    def _take(self, url: str, route: Route | str, routes: dict[str, Route]) -> None:
        if isinstance(route, str):
            self.lost[url] = route
            return
        routes[url] = route
        if route.instead:
            self._say(f"weights go to {url} by files and not by broadcasts: {route.instead}")

    def _open(self, routes: Mapping[str, Route]) -> None:
        self.specs, self.bytes = [], 0
        self._summing = Summing(self.offer.checksum)
        together = [url for url, route in routes.items() if route.transport == COLLECTIVE]
        folders: dict[Path, list[str]] = defaultdict(list)
        for url, route in routes.items():
            if route.folder is not None:
                folders[route.folder].append(url)
        if together:
            peers = {url: self._peers[url] for url in together}
            self._outlets.append(CollectiveOutlet(self._servers, self._meeting(), peers, self.offer))
        for folder, urls in folders.items():
            self._outlets.append(FilesOutlet(self._servers, urls, folder, self.offer))

    def _settle(self) -> None:
        """Judge the outlets of a pass, and find who needs another."""
        assert self._waiting is not None
        before, self._waiting = self._waiting, {}
        again: dict[str, str] = {}
        lost_before = len(self.lost)
        for outlet in self._outlets:
            outcome = outlet.judge(self.checksum)
            self.taken += outcome.taken
            self.lost |= outcome.lost
            again |= outcome.again
        self.transport |= {url: before[url].transport for url in self.taken if url in before}
        self.close("the trainer sends the weights again" if again else "the pass has ended")
        if len(self.lost) == lost_before:
            self._breaks += 1
        for url, why in again.items():
            route: Route | str = before[url]
            if self._breaks >= MOST_BREAKS:
                why = f"broadcasts broke off although all servers were well: {why}"
                can_files = self._preferred == AUTO and before[url].transport != FILES
                route = by_files(self._peers[url], self._own, self._weights_dir, why) if can_files else why
            self._take(url, route, self._waiting)
