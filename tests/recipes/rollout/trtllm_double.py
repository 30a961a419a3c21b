"""A stand-in for TensorRT-LLM and Ray, made from contract.json: it takes what the contract lists, and nothing else.

Its model is a table of logits by the last token, so that what it draws says which weights it has.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import enum
import importlib
import inspect
import json
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.rollout import ServeRolloutConfig, TrtllmConfig
from recipes.rollout.interface import Request, SamplingParams
from recipes.rollout.trtllm.contract import Entry, load
from recipes.rollout.trtllm.source_tree import NO_DEFAULT

CONTRACT = load()
RANK = threading.local()
VOCABULARY, ROWS = 40, 48
"""Ids the tokenizer knows, and rows of the embedding."""
TABLE = "model.table.weight"
PROJECTION = "model.layers.0.mlp.up_proj.weight"

MODEL = {
    "vocab_size": ROWS, "tie_word_embeddings": False, "hidden_size": 256, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 256,
}  # fmt: skip
PARAMS = SamplingParams(1.0, 1.0, 12, (3,), VOCABULARY, seed=5, step=2)
REQUESTS = [Request((7, 8, prompt), prompt, sample) for prompt in range(4) for sample in range(3)]


def write_config(folder: Path) -> None:
    """The stand-in's config.json."""
    (folder / "config.json").write_text(json.dumps(MODEL))


def config(folder: Path, **changes: Any) -> ServeRolloutConfig:
    """A server of that folder; `trtllm_…` are keys of the section."""
    ours = TrtllmConfig(**{key[7:]: changes.pop(key) for key in list(changes) if key.startswith("trtllm_")})
    base = ServeRolloutConfig(
        model=str(folder), engine="trtllm", weights="refit", max_prompt_tokens=16, max_total_tokens=32, trtllm=ours,
        refit_deadline_s=5.0,
    )  # fmt: skip
    return replace(base, **changes)


def strict(name: str) -> type:
    """A class whose constructor takes the contract's fields by keyword, and nothing else."""
    entry = CONTRACT[name]

    class Strict:
        def __init__(self, **given: Any) -> None:
            unknown = given.keys() - entry.parts.keys()
            missing = {part for part, default in entry.parts.items() if default == NO_DEFAULT} - given.keys()
            if unknown or missing:
                raise ValueError(f"{name}: unknown {sorted(unknown)}, missing {sorted(missing)}")
            for part in entry.parts:
                setattr(self, part, given.get(part))

    Strict.__name__ = Strict.__qualname__ = name
    return Strict


def enumeration(name: str) -> type[enum.Enum]:
    """An enum with the contract's members."""
    return enum.Enum(name, {member: ast.literal_eval(value) for member, value in CONTRACT[name].parts.items()})


def bound(entry: Entry, args: tuple, keywords: dict[str, Any]) -> dict[str, Any]:
    """What a call gives to each of the contract's parameters. Raises TypeError as the call itself would."""
    kinds = {"positional": 0, "either": 1, "keyword": 3}
    parameters = [
        inspect.Parameter(
            part,
            inspect._ParameterKind(kinds[entry.kinds.get(part, "either")]),
            default=inspect.Parameter.empty if default == NO_DEFAULT else None,
        )
        for part, default in entry.parts.items()
    ]
    if entry.open:
        parameters.append(inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD))
    return dict(inspect.Signature(parameters).bind(*args, **keywords).arguments)


def by_contract(name: str) -> Any:
    """Decorates a method: its arguments are the contract's, and it is a coroutine function exactly where that is."""
    entry = CONTRACT[name]

    def decorate(method: Any) -> Any:
        if entry.is_async:

            async def call(self: Any, *args: Any, **keywords: Any) -> Any:
                return await method(self, **bound(entry, args, keywords))
        else:

            def call(self: Any, *args: Any, **keywords: Any) -> Any:
                return method(self, **bound(entry, args, keywords))

        return call

    return decorate


class Loader:
    """Puts tensors into the model by name, as far as they are there."""

    def __init__(self, fail_after: int | None) -> None:
        self.calls: list[list[str]] = []
        self.given: dict[str, torch.Tensor] = {}
        self._fail_after = fail_after

    @by_contract("ModelLoader.reload")
    def reload(self, model: torch.nn.Module, weights: dict[str, torch.Tensor], allow_partial_loading: bool) -> None:
        assert allow_partial_loading
        if self._fail_after is not None and len(self.calls) >= self._fail_after:
            raise RuntimeError("out of memory")
        self.calls.append(list(weights))
        self.given.update({name: value.clone() for name, value in weights.items()})
        own = dict(model.named_parameters())
        for name, value in weights.items():
            if "model." + name.removeprefix("model.") in own and value.dtype != torch.float8_e4m3fn:
                own[name].data.copy_(value)


class Model(torch.nn.Module):
    """The table of logits, and the hooks of TensorRT-LLM's modules."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.table = torch.nn.Linear(ROWS, ROWS, bias=False)
        self.hooks: list[str] = []

    def pre_reload_weights(self) -> None:
        self.hooks.append("pre")

    def process_weights_after_loading(self) -> None:
        self.hooks.append("process")

    def post_load_weights(self) -> None:
        self.hooks.append("post")


class Executor:
    """PyExecutor: refuses a control action or new weights with requests under way."""

    def __init__(self, fail_after: int | None) -> None:
        self.model_engine = types.SimpleNamespace(model=Model(), model_loader=Loader(fail_after))
        self.parked = False
        self.resets = 0

    @by_contract("PyExecutor.control_action")
    @contextlib.contextmanager
    def control_action(self, drain: bool) -> Any:
        assert drain
        self.parked = True
        try:
            yield
        finally:
            self.parked = False

    @by_contract("PyExecutor.reset_prefix_cache")
    def reset_prefix_cache(self) -> None:
        self.resets += 1


class WorkerExtension:
    """Its base class in TensorRT-LLM; the release has more methods, which the binding does not call."""


class Worker:
    """RayGPUWorker."""

    def __init__(self, rank: int, fail_after: int | None) -> None:
        self.rank, self.device_id = rank, rank
        self.engine = Executor(fail_after)

    def sleep(self, tags: list[str]) -> None:
        self.asleep = tags

    def wakeup(self, tags: list[str]) -> None:
        assert self.asleep == tags
        self.asleep = None


class RequestOutput:
    """A request under way."""

    def __init__(self, llm: Any, prompt: list[int], sampling: Any) -> None:
        self._llm, self._prompt, self._sampling = llm, prompt, sampling
        self.aborted = False
        self.outputs: list[Any] = []

    @by_contract("GenerationResult.abort")
    def abort(self) -> None:
        self.aborted = True

    def __await__(self) -> Any:
        return self._run().__await__()

    async def _run(self) -> RequestOutput:
        sampling, ids, log_probs = self._sampling, list(self._prompt), []
        draw = torch.Generator().manual_seed(sampling.seed)
        reason = "length"
        for _ in range(sampling.max_tokens):
            await asyncio.sleep(self._llm.token_s)
            if self.aborted:
                reason = "cancelled"
                break
            token, log_prob = self._draw(ids[-1], draw)
            ids.append(token)
            log_probs.append(log_prob)
            if token in (sampling.stop_token_ids or ()):
                reason = "stop"
                break
        made = types.SimpleNamespace(token_ids=ids[len(self._prompt) :], logprobs=log_probs, finish_reason=reason)
        self.outputs = [made]
        return self

    def _draw(self, last: int, draw: torch.Generator) -> tuple[int, float]:
        sampling = self._sampling
        with torch.no_grad():
            logits_v = self._llm.workers[0].engine.model_engine.model.model.table.weight[last].clone()
        raw_v = logits_v.log_softmax(0)
        if sampling.embedding_bias is not None:
            logits_v += sampling.embedding_bias
        if sampling.temperature == 0 or sampling.top_k == 1:
            token = int(logits_v.argmax())
            return token, float(raw_v[token])
        processed_v = (logits_v / sampling.temperature).log_softmax(0)
        token = int(torch.multinomial(processed_v.exp(), 1, generator=draw))
        return token, float((raw_v if sampling.logprobs_mode == "raw" else processed_v)[token])


def make_async_llm(world: World) -> type:
    """AsyncLLM with the contract's constructor."""
    arguments = strict("TorchLlmArgs")

    class AsyncLLM:
        def __init__(self, *args: Any, **keywords: Any) -> None:
            given = bound(CONTRACT["AsyncLLM.__init__"], args, keywords)
            self.args = arguments(**given.pop("others", {}))
            self.placement, self.token_s = given, world.token_s
            self.calls: list[tuple[str, Any]] = []
            self.is_set_up = self.is_shut_down = False
            world.llm = self

        @by_contract("AsyncLLM.setup_async")
        async def setup_async(self) -> None:
            module, _, name = self.args.ray_worker_extension_cls.rpartition(".")
            extension = getattr(importlib.import_module(module), name)
            taken = [attribute for attribute in dir(extension) if not attribute.startswith("__")]
            if any(hasattr(Worker, attribute) for attribute in taken):
                raise ValueError("an attribute of the extension is the worker's already")
            kind = type("Extended", (Worker, extension), {})
            self.workers = [kind(rank, world.fail_after) for rank in range(self.args.tensor_parallel_size)]
            self.is_set_up = True

        @by_contract("BaseLLM.generate_async")
        def generate_async(self, inputs: Any, sampling_params: Any) -> RequestOutput:
            assert self.is_set_up and not self.workers[0].engine.parked
            if sampling_params.logprobs_simple_format and sampling_params.logprobs != 0:
                raise ValueError("logprobs_simple_format=True requires logprobs == 0")
            world.outputs.append(RequestOutput(self, inputs["prompt_token_ids"], sampling_params))
            return world.outputs[-1]

        @by_contract("AsyncLLM.collective_rpc")
        async def collective_rpc(self, method: str, args: tuple = ()) -> list[Any]:
            self.calls.append((method, args))

            def call(worker: Worker) -> Any:
                RANK.value = worker.rank
                return getattr(worker, method)(*args)

            answers = await asyncio.gather(*(asyncio.to_thread(call, worker) for worker in self.workers))
            return world.answers(answers) if world.answers else answers

        @by_contract("AsyncLLM.release")
        async def release(self, tags: list[str]) -> None:
            await self.collective_rpc("sleep", (tags,))

        @by_contract("AsyncLLM.resume")
        async def resume(self, tags: list[str]) -> None:
            await self.collective_rpc("wakeup", (tags,))

        @by_contract("BaseLLM.shutdown")
        def shutdown(self) -> None:
            self.is_shut_down = True

    return AsyncLLM


class World:
    """What a test sets and sees.

    Attributes:
        gpus: that Ray finds.
        token_s: seconds of a token.
        fail_after: buckets after which loading fails; None: never.
        answers: changes what collective_rpc gives back.
        llm: the engine that was built.
        outputs: every request that was made.
        ray: "init" and "shutdown", in their order.
    """

    def __init__(self) -> None:
        self.gpus, self.token_s = 8, 0.0
        self.fail_after: int | None = None
        self.answers: Any = None
        self.llm: Any = None
        self.outputs: list[RequestOutput] = []
        self.ray: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the modules where `import` finds them, until the test ends."""

        async def ready() -> None:
            pass

        def module(name: str, **members: Any) -> None:
            made = types.ModuleType(name)
            made.__path__ = []  # so that it counts as a package
            vars(made).update(members)
            monkeypatch.setitem(sys.modules, name, made)

        module("tensorrt_llm", AsyncLLM=make_async_llm(self), SamplingParams=strict("SamplingParams"))
        module("tensorrt_llm.llmapi")
        module(
            "tensorrt_llm.llmapi.llm_args",
            **{name: strict(name) for name in ("KvCacheConfig", "CudaGraphConfig", "SchedulerConfig", "SleepConfig")},
            **{name: enumeration(name) for name in ("CapacitySchedulerPolicy", "ExecutorMemoryType")},
        )
        module("tensorrt_llm.llmapi.rlhf_utils", WorkerExtension=WorkerExtension)
        module(
            "ray",
            init=lambda **_: self.ray.append("init"),
            shutdown=lambda: self.ray.append("shutdown"),
            cluster_resources=lambda: {"GPU": float(self.gpus)},
        )
        module("ray.util")
        group = types.SimpleNamespace(ready=ready)
        module("ray.util.placement_group", placement_group=lambda bundles, strategy: group)
        monkeypatch.delitem(sys.modules, "recipes.rollout.trtllm.extension", raising=False)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: RANK.value)
