"""Which group of samples is asked of which server. Knows tokens and names, no requests on a wire and no time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from recipes.rollout.interface import Request, SamplingParams

SHARE = 0.75
"""Of a server's fair share of all tokens, what it holds at a time. The rest goes to whoever finishes first; less would
leave places in the servers' batches empty at the start of a step."""
MOST_SAMPLES = 4096
"""Samples that a server holds at a time, below every server's max_queue that is not made small on purpose."""


@dataclass
class _Held:
    """What one server has under way: unfinished requests by prompt, the tokens that could still come, its limit."""

    groups: dict[int, list[int]] = field(default_factory=dict)
    tokens: int = 0
    samples: int = 0
    most: int = MOST_SAMPLES


class Dealing:
    """The samples of one call: in the pool, held by a server, or finished.

    The samples of a prompt are held together by one server, so that it computes the prompt once. Outstanding tokens are
    those that could still come: budgets of unfinished samples, and their prompts.

    Args:
        requests: what is wanted. Those with one `prompt` number are a group.
        params: whose budgets apply.
        servers: names of all servers, dead ones too.

    Raises:
        ValueError: two requests have one prompt and sample number, or one prompt number stands for two prompts.
    """

    def __init__(self, requests: Sequence[Request], params: SamplingParams, servers: Iterable[str]):
        self._requests = requests
        self._budgets = [request.budget(params) for request in requests]
        groups: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(request.prompt, []).append(index)
        for prompt, indices in groups.items():
            if len({requests[index].sample for index in indices}) != len(indices):
                raise ValueError(f"requests: two of prompt {prompt} have one sample number, which keys their draws")
            if len({requests[index].prompt_ids for index in indices}) != 1:
                raise ValueError(f"requests: prompt number {prompt} stands for different prompts")
        self._pool = deque(groups.values())
        self._total = sum(self._cost(indices) for indices in groups.values())
        self._held = {server: _Held() for server in servers}
        self.left = len(requests)
        """Samples that are not finished."""

    def outstanding(self, server: str) -> int:
        """Tokens that could still come from a server."""
        return self._held[server].tokens

    def deal(self, ready: Sequence[str], alive: int) -> dict[str, list[list[int]]]:
        """Hand out groups from the pool, each to the ready server with the fewest outstanding tokens that has room.

        Args:
            ready: servers that may be asked now.
            alive: servers that share the work, those that only wait for a moment included.

        Returns:
            By server, the requests' indices of each group that it holds from now on.
        """
        share = SHARE if len(self._held) > 1 else 1.0
        window = share * self._total / max(alive, 1)
        dealt: dict[str, list[list[int]]] = {}
        while self._pool:
            indices = self._pool[0]
            cost = self._cost(indices)
            open_to_it = [server for server in ready if self._has_room(server, cost, len(indices), window)]
            if not open_to_it:
                break
            server = min(open_to_it, key=self.outstanding)
            self._pool.popleft()
            held = self._held[server]
            held.groups[self._requests[indices[0]].prompt] = indices
            held.tokens += cost
            held.samples += len(indices)
            dealt.setdefault(server, []).append(list(indices))
        return dealt

    def finish(self, server: str, index: int) -> bool:
        """Count a sample as finished. False, and nothing is counted, where the server does not hold it."""
        held, request = self._held[server], self._requests[index]
        indices = held.groups.get(request.prompt, [])
        if index not in indices:
            return False
        indices.remove(index)
        held.tokens -= self._budgets[index]
        held.samples -= 1
        held.most = min(held.most + 1, MOST_SAMPLES)
        if not indices:
            del held.groups[request.prompt]
            held.tokens -= len(request.prompt_ids)
        self.left -= 1
        return True

    def give_back(self, server: str, prompts: Iterable[int] | None = None) -> int:
        """Put what a server has not finished back into the pool, to be dealt first.

        Args:
            server: which.
            prompts: numbers of the groups; None: all that it holds.

        Returns:
            Samples given back.
        """
        held = self._held[server]
        wanted = list(held.groups) if prompts is None else [prompt for prompt in prompts if prompt in held.groups]
        groups = [held.groups.pop(prompt) for prompt in wanted]
        for indices in reversed(groups):
            self._pool.appendleft(indices)
            held.tokens -= self._cost(indices)
            held.samples -= len(indices)
        return sum(map(len, groups))

    def narrow(self, server: str) -> None:
        """Halve what a server may hold, as it says that this is too much; every sample that it finishes widens it."""
        held = self._held[server]
        held.most = max(1, min(held.most, held.samples) // 2)

    def _cost(self, indices: Sequence[int]) -> int:
        return len(self._requests[indices[0]].prompt_ids) + sum(self._budgets[index] for index in indices)

    def _has_room(self, server: str, cost: int, samples: int, window: float) -> bool:
        held = self._held[server]
        fits = held.tokens + cost <= window and held.samples + samples <= held.most
        return not held.samples or fits
