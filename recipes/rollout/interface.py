"""What the training loop and the rollout server ask of a generation engine.

Token ids in; ids, log-probs and the weight version out. It has four faces: `RolloutEngine` is what the loop drives,
`RemoteEngine` one in other processes, `StreamingEngine` one in this process that hands samples out as they finish, and
`ServedEngine` what the rollout server puts on HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from crossthink.errors import EXIT_RESUMABLE, UserError

FINISH_STOP = "stop"
FINISH_LENGTH = "length"

Weights = Callable[[], Iterable[tuple[str, Tensor]]]
"""A whole set of weights, by Hugging Face name, each time it is called: a refit that failed is tried again.
A tensor keeps its values while it is held."""


class RefitError(UserError):
    """The engine could not take new weights over. Either its old ones still serve, or it refuses to generate."""


class LostWeightsError(UserError):
    """Servers answer, but none has the weights any more, as they were started again: a refit would mend that."""

    exit_code = EXIT_RESUMABLE


class RequestError(UserError):
    """A request that this engine can never answer: too long, an unknown id, an impossible parameter."""


@dataclass(frozen=True)
class SamplingParams:
    """How to draw. `temperature=0` is greedy; `top_p=1` keeps the whole distribution.

    Attributes:
        stop_ids: any of these ends a response and belongs to it.
        vocabulary: ids the tokenizer knows; those beyond are never drawn.
        max_tokens: response tokens at most, stop token included.
        seed: with `step` and each request's numbers, fixes every draw.
    """

    temperature: float
    top_p: float
    max_tokens: int
    stop_ids: tuple[int, ...]
    vocabulary: int
    seed: int
    step: int


@dataclass(frozen=True)
class Request:
    """One response wanted: its prompt, the prompt's number within the step, and the sample's number in the group.

    `max_tokens` is a budget of its own, below that of the sampling parameters; None: theirs.
    """

    prompt_ids: tuple[int, ...]
    prompt: int
    sample: int
    max_tokens: int | None = None

    def budget(self, params: SamplingParams) -> int:
        """Response tokens at most."""
        return params.max_tokens if self.max_tokens is None else min(self.max_tokens, params.max_tokens)


@dataclass(frozen=True)
class Response:
    """One response.

    Attributes:
        token_ids: the drawn ids, stop token included.
        log_probs: natural log-probabilities of those ids at the sampling temperature, before top-p.
        finish_reason: "stop" or "length".
        weight_version: version given at the last refit before it was drawn.
    """

    token_ids: list[int]
    log_probs: list[float]
    finish_reason: str
    weight_version: int


class RolloutEngine(Protocol):
    """A generation engine."""

    def refit(self, weights: Weights, version: int) -> None:
        """Take over a whole set of weights by Hugging Face name. Collective where the engine spans ranks."""
        ...

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[Response]:
        """Responses in the order of the requests. "Same seed, same tokens" holds where the engine says so."""
        ...


@runtime_checkable
class RemoteEngine(RolloutEngine, Protocol):
    """An engine in other processes: the first rank alone asks it, and everybody can do something else meanwhile."""

    version: int | None
    """Of the last refit."""

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[tuple[int, Response]]:
        """(index of the request, its response) as they finish. On the first rank; any thread.

        Raises:
            UserError: a request that no server takes, or no server left; the latter with exit code 75.
        """
        ...

    def rest(self) -> None:
        """Nothing is generated until the next refit: colocated servers give the device back. Collective."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers of the servers and of the refits since the last call. On the first rank."""
        ...

    def close(self) -> None:
        """End what is under way; `stream` then raises. Nothing is asked any more."""
        ...


class StreamingEngine(RolloutEngine, Protocol):
    """An engine with continuous batching, driven by one thread: samples enter and leave while others go on."""

    version: int | None
    """Of the weights; None while there is no whole set of them."""

    def submit(self, ticket: int, request: Request, params: SamplingParams) -> None:
        """Queue a request. Tickets are the caller's, and no two under way are equal. Raises RequestError."""
        ...

    def step(self) -> list[tuple[int, Response]]:
        """Draw one token for everything that runs, and let waiting requests in. Returns what finished, by ticket."""
        ...

    def abort(self, tickets: Iterable[int]) -> None:
        """Forget these requests; they never finish. Unknown tickets are ignored."""
        ...

    @property
    def running(self) -> int:
        """Requests that have a place in the batch."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that have none yet."""
        ...


@dataclass(frozen=True)
class Limits:
    """What a served engine takes.

    Attributes:
        max_prompt_tokens: longest prompt.
        max_total_tokens: longest prompt with its response.
        vocabulary: rows of the embedding: no prompt holds an id from here on.
    """

    max_prompt_tokens: int
    max_total_tokens: int
    vocabulary: int

    def check(self, request: Request, params: SamplingParams) -> None:
        """Refuse what can never be answered.

        Raises:
            RequestError: an empty or too long prompt, an id beyond the vocabulary, a budget that does not fit; names
                the value and what is allowed.
        """
        ids, budget = request.prompt_ids, request.budget(params)
        if not ids:
            raise RequestError("prompt_ids: empty; at least one token is needed.")
        if len(ids) > self.max_prompt_tokens:
            raise RequestError(f"prompt_ids: {len(ids)} tokens; at most {self.max_prompt_tokens} are allowed.")
        if not 0 <= min(ids) <= max(ids) < self.vocabulary:
            wrong = next(one for one in ids if not 0 <= one < self.vocabulary)
            raise RequestError(
                f"prompt_ids: {wrong} is no token id of this model; allowed are 0 to {self.vocabulary - 1}."
            )
        if budget < 1:
            raise RequestError(f"max_tokens: {budget} is too small; at least 1.")
        if len(ids) + budget > self.max_total_tokens:
            raise RequestError(
                f"max_tokens: {budget} after a prompt of {len(ids)} tokens is more than the {self.max_total_tokens} "
                "tokens that this engine holds for a sequence."
            )


class ServedEngine(Protocol):
    """What the rollout server puts on HTTP. All coroutines run on the server's event loop."""

    name: str
    """local or trtllm."""
    deterministic: bool
    """Whether the same seed and weights give the same tokens."""
    limits: Limits
    version: int | None
    """Of the weights; None while there is no whole set of them, and `generate` refuses."""
    ranks: int
    """Processes that hold weights (tensor parallelism): seats in a collective refit."""

    async def start(self) -> None:
        """Get ready to generate."""
        ...

    async def stop(self) -> None:
        """End everything that `start` started. What is under way is lost."""
        ...

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> AsyncGenerator[tuple[int, Response], None]:
        """(index of the request, its response) as they finish. Closing the iterator aborts what is left.

        Raises:
            RequestError: before anything is generated.
            UserError: the engine has no whole set of weights, or it failed.
        """
        ...

    async def refit(self, offer: dict[str, Any]) -> dict[str, Any]:
        """Take over the weights that `recipes.rollout.refit.offer.Offer` describes, once nothing is under way.

        Returns:
            `tensors`, `bytes`, `checksum` (over all tensors' checksums) and `seconds`.

        Raises:
            RefitError: see there. `version` tells which of the two it is.
        """
        ...

    def load(self) -> dict[str, int]:
        """`running` and `waiting` requests, and `free_tokens` of the KV cache where the engine knows them.

        Free tokens change as tokens are drawn: where they do not, the server gives its clients no sign of life.
        """
        ...

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]] | None:
        """dtype and shape of every weight by Hugging Face name; None where the engine cannot tell before it loads."""
        ...

    async def sleep(self) -> None:
        """Give the device's memory back until `wake`; the next refit brings the weights. `version` is None then."""
        ...

    async def wake(self) -> None:
        """Take the memory again."""
        ...
