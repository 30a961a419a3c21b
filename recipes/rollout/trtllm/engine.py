"""TensorRT-LLM as a served engine: one AsyncLLM on Ray's workers of this machine, refitted in place."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from conf.rollout import ServeRolloutConfig
from crossthink.errors import UserError
from recipes.rollout.interface import (
    FINISH_LENGTH,
    FINISH_STOP,
    RefitError,
    Request,
    Response,
    SamplingParams,
)
from recipes.rollout.trtllm import options, surroundings
from recipes.rollout.trtllm.checkpoint_names import CheckpointNames
from recipes.rollout.trtllm.wanted import PIN

PLACEMENT_S = 120.0
"""For Ray to find the GPUs."""
WORKERS_S = 60.0
"""That workers are given to say that their deadlines, of getting ready and for the weights, have passed."""


class TrtllmServed:
    """TensorRT-LLM's generation engine (`ServedEngine`). All coroutines run on one event loop.

    Requests that come while a refit waits or runs wait for its end.

    Args:
        config: of the server.

    Raises:
        ConfigError: a setting that cannot work, or a model folder that is none.
    """

    name = "trtllm"
    # Its sampler draws from one stream for all requests of a batch, and batches depend on arrival.
    deterministic = False

    def __init__(self, config: ServeRolloutConfig) -> None:
        self.limits = options.check(config)
        self.ranks = config.trtllm.tensor_parallel
        self.version: int | None = None
        self._config = config
        self._names = CheckpointNames(Path(config.model))
        self._llm: Any = None
        self._ray: Any = None
        self._under_way = 0
        self._exclusive = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Start Ray and its workers, and load the model.

        Raises:
            UserError: TensorRT-LLM or Ray is not installed, there are too few GPUs, or it could not start.
        """
        surroundings.prepare(os.environ)
        for name in ("tensorrt_llm", "ray"):
            _import(name)
        try:
            await self._start_workers()
        except UserError:
            await self.stop()
            raise
        except Exception as error:
            await self.stop()
            raise UserError(f"TensorRT-LLM could not start: {_short(error)}") from error
        if self._config.weights == "folder":
            self.version = 0

    async def _start_workers(self) -> None:
        ray, placements = _import("ray"), _import("ray.util.placement_group")
        library, arguments = _import("tensorrt_llm"), _import("tensorrt_llm.llmapi.llm_args")
        # A cluster of its own, on the loopback address: others' are not found, and none finds this one.
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1")
        self._ray = ray
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus < self.ranks:
            raise UserError(f"trtllm.tensor_parallel={self.ranks} needs that many GPUs; Ray finds {gpus} here.")
        placement = placements.placement_group([{"GPU": 1, "CPU": 1}] * self.ranks, strategy="STRICT_PACK")
        await asyncio.wait_for(_ready(placement), PLACEMENT_S)
        self._llm = library.AsyncLLM(**options.constructor(self._config, arguments, placement))
        await self._llm.setup_async()

    async def stop(self) -> None:
        """End the engine, its workers and Ray."""
        self.version = None
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)
        ray, self._ray = self._ray, None
        if ray is not None:
            ray.shutdown()

    async def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> AsyncGenerator[tuple[int, Response], None]:
        """See `ServedEngine`. Aborts what is left when it is closed."""
        for request in requests:
            self.limits.check(request, params)
        words = options.sampling_words(params, self.limits)
        while not self._open.is_set():  # a second refit may close it again before this task wakes
            await self._open.wait()
        version = self.version
        if version is None or self._llm is None:
            raise UserError("The engine has no whole set of weights: a trainer's refit must come first.")
        shared = _import("tensorrt_llm").SamplingParams(max_tokens=params.max_tokens, **words)
        self._enter(len(requests))
        left = len(requests)
        outputs: list[Any] = []
        waits: list[asyncio.Task] = []
        try:
            for index, request in enumerate(requests):
                own = options.for_request(shared, request, params)
                outputs.append(self._submit(request, own))
                waits.append(asyncio.ensure_future(_finished(index, outputs[-1], params.vocabulary, version)))
            for done in asyncio.as_completed(waits):
                pair = await done
                left -= 1
                self._leave(1)
                yield pair
        finally:
            for output, wait in zip(outputs, waits, strict=False):
                if not wait.done():
                    output.abort()
                    wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            self._leave(left)

    def _submit(self, request: Request, sampling: Any) -> Any:
        try:
            return self._llm.generate_async(
                inputs={"prompt_token_ids": list(request.prompt_ids)}, sampling_params=sampling
            )
        except Exception as error:
            raise UserError(f"TensorRT-LLM refused a request: {_short(error)}") from error

    async def refit(self, offer: dict[str, Any]) -> dict[str, Any]:
        """See `ServedEngine`. Every worker takes all tensors and keeps its share of each."""
        tensors = offer.get("tensors")
        if tensors is not None:
            self._names.compare({name: tuple(shape) for name, _, shape in tensors})
        async with self._alone("take new weights"):
            started = time.monotonic()
            old, self.version = self.version, None
            replies = await self._ask_workers(json.dumps(offer))
            failed = [reply["error"] for reply in replies if "error" in reply]
            if failed:
                if all("error" in reply and not reply["touched"] for reply in replies):
                    self.version = old
                raise RefitError(f"TensorRT-LLM did not take version {offer.get('version')}: {failed[0]}")
            first = replies[0]
            if any(reply != first for reply in replies):
                raise RefitError(f"The GPUs hold different weights after the refit: {replies!r:.300}")
            if tensors is None:
                self._names.compare_names(first["names"])
            if first["version"] != offer["version"]:
                raise RefitError(f"The workers took version {first['version']}; {offer['version']} was offered.")
            self.version = first["version"]
            return {
                "tensors": len(first["names"]),
                "bytes": first["bytes"],
                "checksum": first["checksum"],
                "seconds": time.monotonic() - started,
            }

    async def _ask_workers(self, offer: str) -> list[dict[str, Any]]:
        """Every worker's answer.

        Raises:
            RefitError: one did not answer as it should.
        """
        arguments = (offer, self._config.trtllm.fp8_weights)
        deadline = 2 * self._config.refit_deadline_s + WORKERS_S
        try:
            replies = await asyncio.wait_for(
                self._llm.collective_rpc("crossthink_refit", args=arguments), timeout=deadline
            )
        except asyncio.TimeoutError as error:
            raise RefitError(
                f"TensorRT-LLM's workers did not answer within {deadline:g} s. Restart the server."
            ) from error
        except Exception as error:
            raise RefitError(f"TensorRT-LLM's workers failed in the refit: {_short(error)}") from error
        answered = isinstance(replies, list) and all(isinstance(reply, dict) for reply in replies)
        if not answered or len(replies) != self.ranks:
            raise RefitError(f"{self.ranks} workers were asked to take new weights; the answer was {replies!r:.200}.")
        return replies

    def load(self) -> dict[str, int]:
        """See `ServedEngine`. What TensorRT-LLM itself has running is not asked: its batch is filled first."""
        running = min(self._under_way, self._config.trtllm.max_batch_size)
        return {"running": running, "waiting": self._under_way - running}

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]] | None:
        """None: the engine's own tensors are fused, and cast as they come; `refit` checks names and shapes."""
        return None

    async def sleep(self) -> None:
        """See `ServedEngine`."""
        async with self._alone("sleep"):
            self.version = None
            # Releasing memory does not make TensorRT-LLM forget which prefixes it held there.
            await self._llm.collective_rpc("crossthink_reset_prefix_cache")
            await self._llm.release(_memory_tags())

    async def wake(self) -> None:
        """See `ServedEngine`."""
        async with self._alone("wake"):
            await self._llm.resume(_memory_tags())

    @contextlib.asynccontextmanager
    async def _alone(self, what: str) -> AsyncIterator[None]:
        """Hold new requests back, and wait until nothing is under way.

        Raises:
            RefitError: the engine is not started, another holds it, or the deadline passed.
        """
        if self._llm is None:
            raise RefitError(f"TensorRT-LLM is not running, so it cannot {what}.")
        if self._exclusive.locked():
            raise RefitError(f"The engine cannot {what}: another refit, sleep or wake is under way.")
        async with self._exclusive:
            self._open.clear()
            try:
                try:
                    await asyncio.wait_for(self._idle.wait(), self._config.refit_deadline_s)
                except asyncio.TimeoutError as error:
                    raise RefitError(
                        f"The engine cannot {what}: {self._under_way} samples are still under way after "
                        f"refit_deadline_s={self._config.refit_deadline_s:g}."
                    ) from error
                yield
            finally:
                self._open.set()

    def _enter(self, samples: int) -> None:
        self._under_way += samples
        if self._under_way:
            self._idle.clear()

    def _leave(self, samples: int) -> None:
        self._under_way -= samples
        if not self._under_way:
            self._idle.set()


async def _finished(index: int, output: Any, vocabulary: int, version: int) -> tuple[int, Response]:
    """Wait for one request of TensorRT-LLM, and check what it gives.

    Raises:
        UserError: it failed, was cut off by the engine, or gave what cannot be.
    """
    try:
        result = await output
    except Exception as error:
        raise UserError(f"TensorRT-LLM failed at a request: {_short(error)}") from error
    made = result.outputs[0]
    if made.finish_reason not in (FINISH_STOP, FINISH_LENGTH):
        raise UserError(f"TensorRT-LLM ended a request with {made.finish_reason!r} before it was done.")
    ids, log_probs = list(made.token_ids), list(made.logprobs or ())
    if not ids or len(ids) != len(log_probs) or not all(isinstance(one, float) for one in log_probs):
        raise UserError(
            f"TensorRT-LLM gave {len(log_probs)} log-probs for {len(ids)} tokens; one float each is wanted."
        )
    if max(ids) >= vocabulary:
        raise UserError(f"TensorRT-LLM drew the id {max(ids)}, beyond the tokenizer's {vocabulary}.")
    return index, Response(ids, log_probs, made.finish_reason, version)


async def _ready(placement: Any) -> None:
    await placement.ready()


def _memory_tags() -> list[str]:
    """Everything that can be released; names with a leading underscore cannot."""
    kinds = _import("tensorrt_llm.llmapi.llm_args").ExecutorMemoryType
    return [kind.value for kind in kinds if not kind.value.startswith("_")]


def _import(name: str) -> Any:
    """A module that only the rollout image has.

    Raises:
        UserError: it is not there.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UserError(
            f"engine=trtllm needs the package {package}, which is not here ({error}). Run it in the rollout image "
            f"(TensorRT-LLM {PIN} and Ray, see docs/trtllm.md), or use engine=local."
        ) from error


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]
