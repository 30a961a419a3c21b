"""The whole binding of TensorRT-LLM on a stand-in made from contract.json: what it builds, draws, refits, refuses."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trtllm_double
from safetensors.torch import save_file
from trtllm_double import PARAMS, PROJECTION, REQUESTS, ROWS, TABLE, VOCABULARY, World, config, write_config

from crossthink.errors import UserError
from recipes.rollout.interface import RefitError, RequestError
from recipes.rollout.refit.checksums import XXH3, checksum
from recipes.rollout.refit.files import FilesWriter
from recipes.rollout.refit.offer import FILES, Offer, spec_of
from recipes.rollout.refit.source import Reading
from recipes.rollout.trtllm.engine import TrtllmServed


def table(shift: float) -> torch.Tensor:
    return torch.randn(ROWS, ROWS, generator=torch.Generator().manual_seed(int(shift))) * 2


def weights(version: int) -> dict[str, torch.Tensor]:
    return {
        TABLE: table(version),
        PROJECTION: torch.full((256, 256), float(version)),
        "model.norm.weight": torch.ones(8),
    }


def offer(version: int, tensors: Any = "all") -> dict[str, Any]:
    specs = [(name, "float32", tuple(value.shape)) for name, value in weights(version).items()]
    return {
        "version": version, "transport": "files", "bucket_bytes": 10_000, "checksum": "xxh3", "timeout_s": 10.0,
        "tensors": specs if tensors == "all" else tensors, "group": None, "folder": "/dev/shm/never",
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    write_config(tmp_path)
    save_file(weights(0), tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def world(monkeypatch) -> World:
    """The stand-in, and a sender whose tensors are `weights(version)` unless a test says otherwise."""
    made = World()
    made.install(monkeypatch)
    # By its name, not as the package's attribute: that may be the one of an earlier stand-in.
    extension = importlib.import_module("recipes.rollout.trtllm.extension")
    made.sent = weights
    made.break_after = None

    def read(wanted, seat, into, joined):
        made.seats.append(seat)
        for number, (name, value) in enumerate(made.sent(wanted.version).items()):
            if number == made.break_after:
                raise RefitError("checksum")
            yield name, value
        return f"sum-of-{wanted.version}"

    made.seats = []
    made.really_read = extension.read
    monkeypatch.setattr(extension, "read", lambda *given: Reading(read(*given)))
    monkeypatch.setattr("os.environ", {"SLURM_JOB_ID": "7", "PATH": "/bin"})
    yield made
    sys.modules.pop("recipes.rollout.trtllm.extension", None)


async def collect(engine, requests=REQUESTS, params=PARAMS) -> dict[int, Any]:
    return {index: response async for index, response in engine.generate(requests, params)}


def run(engine: TrtllmServed, job) -> Any:
    """Start, do, stop; the job is a coroutine function of no arguments."""

    async def whole():
        await engine.start()
        try:
            return await job()
        finally:
            await engine.stop()

    return asyncio.run(asyncio.wait_for(whole(), 60))


def test_construction(world, folder, monkeypatch):
    engine = TrtllmServed(config(folder, trtllm_tensor_parallel=2, trtllm_kv_cache_dtype="fp8"))
    assert (engine.version, engine.ranks, engine.name, engine.deterministic) == (None, 2, "trtllm", False)

    async def job():
        args = world.llm.args
        assert world.llm.is_set_up and world.ray == ["init"]
        assert (args.max_seq_len, args.max_input_len, args.max_batch_size, args.max_num_tokens) == (32, 32, 256, 8192)
        assert args.kv_cache_config.enable_block_reuse and args.kv_cache_config.dtype == "fp8"
        assert args.kv_cache_config.free_gpu_memory_fraction == 0.85
        assert args.cuda_graph_config.max_batch_size == 256 and args.load_format == "dummy"
        assert args.scheduler_config.capacity_scheduler_policy.value == "MAX_UTILIZATION"
        assert [one.name for one in args.sleep_config.restore_modes] == ["MODEL_WEIGHTS_MAIN", "KV_CACHE"]
        assert world.llm.placement["placement_bundle_indices"] == [[0, 1]]
        assert "SLURM_JOB_ID" not in os.environ and os.environ["CROSSTHINK_SLURM_JOB_ID"] == "7"
        with pytest.raises(UserError, match="no whole set of weights"):
            await collect(engine)

    run(engine, job)
    assert world.llm.is_shut_down and world.ray == ["init", "shutdown"]


def test_fp8_and_folder_weights(world, folder):
    run(engine := TrtllmServed(config(folder, weights="folder", trtllm_cuda_graphs=False)), lambda: asyncio.sleep(0))
    assert world.llm.args.load_format == "auto" and world.llm.args.cuda_graph_config is None
    assert engine.version is None, "stopped"
    engine = TrtllmServed(config(folder, trtllm_fp8_weights=True))

    async def job():
        await engine.refit(offer(4))
        quantization = world.llm.args.model_kwargs["quantization_config"]
        assert quantization["weight_block_size"] == [128, 128] and world.llm.args.load_format == "dummy"
        given = world.llm.workers[0].engine.model_engine.model_loader.given
        assert given[PROJECTION].dtype == torch.float8_e4m3fn
        assert torch.equal(given[f"{PROJECTION}_scale_inv"], torch.full((2, 2), 4 / 448))
        assert given[TABLE].dtype == torch.float32

    run(engine, job)


def test_generation(world, folder):
    """Every sample by its own seed; log-probs those of the draw; ids beyond the tokenizer never; stop tokens kept."""
    engine = TrtllmServed(config(folder))

    async def job():
        await engine.refit(offer(1))
        first, second = await collect(engine), await collect(engine)
        assert first == second, "the stand-in keeps its seeds"
        other = await collect(engine, params=replace(PARAMS, seed=6))
        assert [one.token_ids for one in other.values()] != [one.token_ids for one in first.values()]
        assert len({tuple(first[i].token_ids) for i in range(3)}) > 1, "samples of a prompt differ"
        # The stand-in reads the last id of the prompt, then the last that it drew.
        log_probs_vv = table(1)[:, :VOCABULARY].log_softmax(-1)
        for index, response in first.items():
            last = [REQUESTS[index].prompt_ids[-1], *response.token_ids[:-1]]
            wanted = [float(log_probs_vv[a, b]) for a, b in zip(last, response.token_ids, strict=True)]
            assert response.log_probs == pytest.approx(wanted, abs=1e-5)
            assert response.weight_version == 1 and max(response.token_ids) < VOCABULARY
            stopped = response.token_ids[-1] == 3
            assert response.finish_reason == ("stop" if stopped else "length")
            assert stopped or len(response.token_ids) == 12
        assert any(one.finish_reason == "stop" for one in first.values())
        short = [replace(REQUESTS[0], max_tokens=2), REQUESTS[1]]
        assert len((await collect(engine, short, replace(PARAMS, stop_ids=())))[0].token_ids) == 2
        masks = {id(output._sampling.embedding_bias) for output in world.outputs}
        assert len(masks) == 1, "one mask for all requests"
        greedy = await collect(engine, REQUESTS[:1], replace(PARAMS, temperature=0.0))
        assert greedy[0].token_ids[0] == int(table(1)[0, :VOCABULARY].argmax())
        assert world.outputs[-1]._sampling.top_k == 1
        assert engine.load() == {"running": 0, "waiting": 0}

    run(engine, job)


def test_impossible_requests_reach_no_engine(world, folder):
    engine = TrtllmServed(config(folder, weights="folder"))

    async def job():
        for bad, says in (
            (replace(REQUESTS[0], prompt_ids=()), "empty"),
            (replace(REQUESTS[0], prompt_ids=(ROWS,)), "no token id"),
            (replace(REQUESTS[0], prompt_ids=(1,) * 17), "17 tokens"),
        ):
            with pytest.raises(RequestError, match=says):
                await collect(engine, [REQUESTS[1], bad])
        assert world.outputs == []

    run(engine, job)


def test_closing_aborts_what_is_left(world, folder):
    engine = TrtllmServed(config(folder, weights="folder"))
    world.token_s = 0.01

    async def job():
        short = [replace(REQUESTS[0], max_tokens=1), *REQUESTS[1:]]
        stream = engine.generate(short, replace(PARAMS, stop_ids=(), max_tokens=16))
        assert (await anext(stream))[0] == 0
        assert engine.load()["running"] == len(REQUESTS) - 1
        await stream.aclose()
        assert engine.load() == {"running": 0, "waiting": 0}
        assert [output.aborted for output in world.outputs] == [False] + [True] * (len(REQUESTS) - 1)
        await engine.sleep()

    run(engine, job)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"finish_reason": "cancelled"}, "ended a request with 'cancelled'"),
        ({"log_probs": [0.5]}, "1 log-probs for 2 tokens"),
        ({"log_probs": [{1: -1.0}, {2: -1.0}]}, "one float each"),
        ({"ids": [1, VOCABULARY]}, "drew the id 40"),
        ({"ids": [], "log_probs": []}, "0 log-probs for 0 tokens"),
    ],
)
def test_what_the_engine_cannot_mean_is_refused(world, folder, monkeypatch, made, says):
    engine = TrtllmServed(config(folder, weights="folder"))

    async def odd(self):
        given = {"ids": [1, 2], "log_probs": [-1.0, -1.0], "finish_reason": "stop", **made}
        kind = trtllm_double.types.SimpleNamespace
        words = {"token_ids": given["ids"], "logprobs": given["log_probs"], "finish_reason": given["finish_reason"]}
        self.outputs = [kind(**words)]
        return self

    monkeypatch.setattr(trtllm_double.RequestOutput, "_run", odd)
    with pytest.raises(UserError, match=says):
        run(engine, lambda: collect(engine))
    assert engine.load() == {"running": 0, "waiting": 0}


def test_refit(world, folder):
    """Weights and version change together, on every GPU; requests wait for it and it waits for requests."""
    engine = TrtllmServed(config(folder, trtllm_tensor_parallel=2))
    world.token_s = 0.002

    async def job():
        report = await engine.refit(offer(1))
        assert (report["tensors"], report["checksum"]) == (3, "sum-of-1")
        assert report["bytes"] == 4 * (ROWS * ROWS + 256 * 256 + 8) and report["seconds"] >= 0
        assert engine.version == 1 and sorted(world.seats) == [0, 1]
        running = asyncio.create_task(collect(engine))
        await asyncio.sleep(0.001)
        refit = asyncio.create_task(engine.refit(offer(2, None)))
        await asyncio.sleep(0)
        behind = asyncio.create_task(collect(engine))
        old, new = await running, await behind
        assert refit.done(), "whatever came behind it waited"
        assert {one.weight_version for one in old.values()} == {1}
        assert {one.weight_version for one in new.values()} == {2}
        assert [one.token_ids for one in old.values()] != [one.token_ids for one in new.values()]
        assert all(worker.engine.resets == 2 for worker in world.llm.workers)

    run(engine, job)


def test_refit_by_files(world, folder, monkeypatch, tmp_path):
    """Through a trainer's real folder; one changed byte in it costs nothing."""
    engine = TrtllmServed(config(folder, trtllm_tensor_parallel=2))
    monkeypatch.setattr(sys.modules["recipes.rollout.trtllm.extension"], "read", world.really_read)

    async def job():
        for version in (1, 2):
            writer = FilesWriter(tmp_path, 10_000, XXH3)
            try:
                sent = weights(version)
                for name, value in sent.items():
                    writer.send(name, value)
                writer.finish({name: checksum(value, XXH3) for name, value in sent.items()})
                specs = [spec_of(name, value) for name, value in sent.items()]
                made = Offer(version, FILES, 10_000, XXH3, specs, 10.0, folder=str(writer.folder))
                if version == 2:
                    shard = max(writer.folder.glob("shard-*"))
                    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
                    with pytest.raises(RefitError, match="Bytes were changed"):
                        await engine.refit(made.to_json())
                else:
                    assert (await engine.refit(made.to_json()))["tensors"] == 3
            finally:
                writer.remove()
        assert engine.version == 1
        for worker in world.llm.workers:
            assert torch.equal(worker.engine.model_engine.model.model.table.weight, table(1))

    run(engine, job)


def test_a_wrong_offer_leaves_the_old_weights(world, folder):
    engine = TrtllmServed(config(folder))

    async def job():
        await engine.refit(offer(1))
        before = await collect(engine)
        specs = offer(2)["tensors"]
        for wrong, says in (
            (specs[:-1], "lacks model.norm.weight"),
            ([*specs, ("model.more", "float32", (1,))], "has unknown model.more"),
            ([(specs[0][0], "float32", (1, 2)), *specs[1:]], r"offered as \[1, 2\]"),
        ):
            with pytest.raises(RefitError, match=says):
                await engine.refit(offer(2, wrong))
        world.break_after = 0  # nothing came: a sender that died before it began
        with pytest.raises(RefitError, match="did not take version 2"):
            await engine.refit(offer(2))
        assert engine.version == 1 and await collect(engine) == before

    run(engine, job)


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (lambda world: setattr(world, "break_after", 2), "checksum"),
        (lambda world: setattr(world, "fail_after", 1), "out of memory"),
        (lambda world: setattr(world, "answers", lambda _: [True, False]), "were asked to take"),
        (lambda world: setattr(world, "answers", lambda _: None), "were asked to take"),
        (lambda world: setattr(world, "answers", lambda replies: replies[:1]), "2 workers were asked"),
        (lambda world: setattr(world, "answers", lambda r: [r[0], {**r[1], "checksum": "x"}]), "different weights"),
        (lambda world: setattr(world, "answers", lambda r: [{**one, "version": 9} for one in r]), "took version 9"),
        (lambda world: setattr(world, "sent", lambda version: {TABLE: table(1)}), "lacks"),
    ],
)  # fmt: skip
def test_a_refit_that_broke_leaves_none(world, folder, trouble, says):
    """No answer that is not whole, from every GPU, passes for new weights; the next whole one mends it."""
    engine = TrtllmServed(config(folder, weights="folder", trtllm_tensor_parallel=2))
    trouble(world)

    async def job():
        with pytest.raises(RefitError, match=says):
            await engine.refit(offer(1, None))
        assert engine.version is None
        with pytest.raises(UserError, match="no whole set of weights"):
            await collect(engine)
        world.answers, world.break_after, world.sent = None, None, weights
        for worker in world.llm.workers:
            worker.engine.model_engine.model_loader._fail_after = None
        await engine.refit(offer(2))
        assert engine.version == 2 and len(await collect(engine)) == len(REQUESTS)

    run(engine, job)


def test_refit_waits_only_so_long(world, folder):
    engine = TrtllmServed(config(folder, weights="folder", refit_deadline_s=0.05))
    world.token_s = 0.05

    async def job():
        running = asyncio.create_task(collect(engine, params=replace(PARAMS, stop_ids=())))
        await asyncio.sleep(0.01)
        with pytest.raises(RefitError, match="12 samples are still under way"):
            await engine.refit(offer(1))
        assert engine.version == 0 and len(await running) == len(REQUESTS)

    run(engine, job)


def test_sleep_and_wake(world, folder):
    engine = TrtllmServed(config(folder))

    async def job():
        await engine.refit(offer(1))
        await engine.sleep()
        [worker] = world.llm.workers
        assert sorted(worker.asleep) == ["kv_cache", "model_weights"] and engine.version is None
        names = [name for name, _ in world.llm.calls]
        assert names[-2:] == ["crossthink_reset_prefix_cache", "sleep"], "prefixes are forgotten first"
        await engine.wake()
        assert worker.asleep is None and engine.version is None
        await engine.refit(offer(2))
        assert len(await collect(engine)) == len(REQUESTS)

    run(engine, job)


def test_without_the_packages_and_gpus(world, folder, monkeypatch):
    world.gpus = 1
    engine = TrtllmServed(config(folder, trtllm_tensor_parallel=2))
    with pytest.raises(UserError, match="Ray finds 1 here"):
        run(engine, lambda: asyncio.sleep(0))
    assert world.ray == ["init", "shutdown"]
    for name in ("ray", "tensorrt_llm"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=f"needs the package {name}.*rollout image.*docs/trtllm.md"):
            run(engine, lambda: asyncio.sleep(0))


def test_the_gpu_check_drives_the_engine_as_it_is(world, folder, monkeypatch):
    """`benchmarks/gpu_rollout.py` up to its comparison with transformers, for which the stand-in has no model."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    monkeypatch.setattr(sys.modules["recipes.rollout.trtllm.extension"], "read", world.really_read)
    generate_and_refit = importlib.import_module("gpu_rollout").generate_and_refit
    before, after, _, _ = asyncio.run(generate_and_refit(folder, REQUESTS, replace(PARAMS, stop_ids=())))
    assert [(len(one.token_ids), one.weight_version) for one in before] == [(12, 0)] * len(REQUESTS)
    assert {one.weight_version for one in after} == {1}
    scaled = world.llm.workers[0].engine.model_engine.model_loader.given
    assert torch.equal(scaled[TABLE], table(0) / 2)
