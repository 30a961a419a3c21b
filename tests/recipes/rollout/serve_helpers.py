"""The rollout server in this process, in front of an engine that makes its tokens up and stops when told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from tiny_helpers import small_tokenizer

from conf.rollout import ServeRolloutConfig
from crossthink.errors import UserError
from recipes.rollout.interface import (
    FINISH_LENGTH,
    FINISH_STOP,
    Limits,
    RefitError,
    Request,
    RequestError,
    Response,
    SamplingParams,
)
from recipes.rollout.server.app import create_app
from recipes.rollout.server.openai_api.words import Words
from reward_server.guard import GuardedProtocol

LIMITS = Limits(max_prompt_tokens=40, max_total_tokens=4000, vocabulary=512)
LIMIT_S = 20.0


class FakeServed:
    """Implements `ServedEngine`. Attributes are set by tests, from their own thread.

    Attributes:
        held: nothing is generated while it is set.
        fail_after: samples after which generation raises `failure`; None: never.
        refusal: raised by `generate` itself, as the local engine does.
        free_tokens: of `load`; None: it cannot tell.
        looks: calls of `load`.
        refit_failure: "before" (the old weights stay) or "midway".
        aborted: samples that were given up.
    """

    name = "local"
    deterministic = True
    limits = LIMITS
    ranks = 1

    def __init__(self, version: int | None = 0):
        self.version = version
        self.held = threading.Event()
        self.fail_after: int | None = None
        self.failure: Exception = UserError("the engine broke")
        self.refusal: RequestError | None = None
        self.free_tokens: int | None = None
        self.looks = 0
        self.refit_failure: str | None = None
        self.refit_held = threading.Event()
        self.refits: list[dict[str, Any]] = []
        self.aborted = 0
        self._running = 0

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> AsyncIterator[tuple[int, Response]]:
        assert self.version is not None
        if self.refusal is not None:
            raise self.refusal
        return self._generate(requests, params)

    async def _generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> AsyncIterator[tuple[int, Response]]:
        left = len(requests)
        self._running += left
        try:
            for index, request in enumerate(requests):
                await self._while_set(self.held)
                if self.fail_after is not None and index >= self.fail_after:
                    raise self.failure
                left -= 1
                self._running -= 1
                yield index, made_up(request, params, self.version)
        finally:
            self._running -= left
            self.aborted += left

    async def refit(self, offer: dict[str, Any]) -> dict[str, Any]:
        assert not self._running, "a refit came while samples were under way"
        await self._while_set(self.refit_held)
        if self.refit_failure is not None:
            self.version = self.version if self.refit_failure == "before" else None
            raise RefitError(f"it failed {self.refit_failure}")
        self.refits.append(offer)
        self.version = offer["version"]
        return {"tensors": 2, "bytes": 1000, "checksum": "ab", "seconds": 0.1}

    def load(self) -> dict[str, int]:
        self.looks += 1
        load = {"running": self._running, "waiting": 0}
        return load if self.free_tokens is None else {**load, "free_tokens": self.free_tokens}

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]] | None:
        return {"a.weight": ("float32", (2, 3))}

    async def sleep(self) -> None:
        assert not self._running
        self.version = None

    async def wake(self) -> None:
        pass

    async def _while_set(self, flag: threading.Event) -> None:
        await asyncio.sleep(0)
        while flag.is_set():
            await asyncio.sleep(0.005)


def made_up(request: Request, params: SamplingParams, version: int) -> Response:
    """The response that `FakeServed` gives: fixed by what must fix it, as a real engine's."""
    draws = random.Random(f"{params.seed} {params.step} {request.prompt} {request.sample} {request.prompt_ids}")
    if params.temperature == 0:
        draws = random.Random(str(request.prompt_ids))
    ids: list[int] = []
    while len(ids) < request.budget(params):
        ids.append(draws.randrange(params.vocabulary))
        if ids[-1] in params.stop_ids:
            return Response(ids, [-draws.random() for _ in ids], FINISH_STOP, version)
    return Response(ids, [-draws.random() for _ in ids], FINISH_LENGTH, version)


@dataclass
class Served:
    """A server that answers."""

    url: str
    engine: FakeServed
    http: httpx.Client
    config: ServeRolloutConfig
    service: Any

    def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(path, content=content)

    def generate(self, body: Any) -> list[dict[str, Any]]:
        """The lines of a reply that is 200."""
        reply = self.post("/v1/generate", body)
        assert reply.status_code == 200, reply.text
        return [json.loads(line) for line in reply.text.splitlines()]

    def metric(self, name: str) -> float:
        """A metric's value; name with its labels."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"crossthink_rollout_{name} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(name)


@contextlib.contextmanager
def serving(engine: FakeServed | None = None, **fields: Any) -> Iterator[Served]:
    """The server on a thread of this process, and a client for it. Nothing may be under way at the end."""
    engine = engine or FakeServed()
    config = ServeRolloutConfig(model="small", **fields)
    tokenizer = small_tokenizer()
    words = Words(tokenizer, [tokenizer.eos_token_id])
    app = create_app(config, engine, words, "small", on_gpu=False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = uvicorn.Config(
            app, http=GuardedProtocol, log_config=None, lifespan="off", timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started)
            headers = {"Authorization": f"Bearer {config.token}"} if config.token else {}
            with httpx.Client(base_url=url, headers=headers, timeout=LIMIT_S, trust_env=False) as http:
                yield Served(url, engine, http, config, app.state.service)
            wait_until(lambda: app.state.service.under_way == 0)
        finally:
            engine.held.clear()
            engine.refit_held.clear()
            server.should_exit = True
            thread.join(LIMIT_S)
        assert not thread.is_alive()


def sampling(**changes: Any) -> dict[str, Any]:
    """The field `sampling` of a generate body."""
    return {
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 8,
        "stop_ids": [7],
        "vocabulary": 50,
        "seed": 3,
        "step": 5,
        **changes,
    }


def group(prompt: int = 0, samples: Sequence[int] = (0, 1), **changes: Any) -> dict[str, Any]:
    """One group of a generate body."""
    return {"prompt": prompt, "prompt_ids": [1, 2, 3 + prompt], "samples": list(samples), **changes}


def body(*groups: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A generate body."""
    return {"sampling": sampling(), "groups": list(groups) or [group()], **changes}


def offer(version: int = 1, **changes: Any) -> dict[str, Any]:
    """The body of a refit."""
    fields = {"version": version, "transport": "files", "bucket_bytes": 1 << 20, "checksum": "xxh3", "tensors": None}
    return {**fields, "timeout_s": 10.0, "group": None, "folder": "/dev/shm/crossthink-refit-none", **changes}


def wait_until(condition: Callable[[], Any], limit_s: float = LIMIT_S) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Run on a thread. Returns a function that waits for its result."""
    results: list[Any] = []

    def keep() -> None:
        results.append(work())

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(LIMIT_S)
        assert results, "it did not end, or failed"
        return results[0]

    return result
