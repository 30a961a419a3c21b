"""The local engine behind the rollout server: its thread, its answers, and refits between them."""

import asyncio
import itertools
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_helpers import small_model, small_tokenizer, write_small_model

from crossthink.errors import UserError
from recipes.models.weights import SINGLE
from recipes.rollout.interface import Limits, RefitError, Request, RequestError, SamplingParams
from recipes.rollout.local import served as served_module
from recipes.rollout.local.engine import LocalEngine
from recipes.rollout.local.served import LocalServed, load_folder
from recipes.rollout.refit.source import Reading

CPU = torch.device("cpu")
VOCABULARY = len(small_tokenizer())
PARAMS = SamplingParams(1.0, 1.0, max_tokens=6, stop_ids=(), vocabulary=VOCABULARY, seed=7, step=3)
LONG = replace(PARAMS, max_tokens=200)
LIMITS = Limits(max_prompt_tokens=20, max_total_tokens=230, vocabulary=VOCABULARY)
REQUESTS = [Request((5, 6, 7 + p), p, g) for p in range(3) for g in range(2)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model's folder, and the model."""
    folder = tmp_path_factory.mktemp("model")
    return folder, write_small_model(folder)


def engine_of(world, batch_size=4):
    engine = LocalEngine(world[0], CPU, batch_size)
    load_folder(engine, world[0])
    return engine


def run(world, body, **options):
    """Run a coroutine of a started engine, at most a minute."""

    async def inside():
        served = LocalServed(engine_of(world), LIMITS, **options)
        await served.start()
        try:
            await asyncio.wait_for(body(served), 60)
        finally:
            await served.stop()

    asyncio.run(inside())


async def collect(served, requests=REQUESTS, params=PARAMS):
    found = [pair async for pair in served.generate(requests, params)]
    assert sorted(index for index, _ in found) == list(range(len(requests)))
    return [response for _, response in sorted(found, key=lambda pair: pair[0])]


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


def offer_of(model, version, tensors=True):
    specs = [(name, "float32", tuple(value.shape)) for name, value in model.named_parameters()]
    return {
        "version": version,
        "transport": "files",
        "bucket_bytes": 1 << 20,
        "checksum": "xxh3",
        "tensors": specs if tensors else None,
        "timeout_s": 5.0,
        "group": None,
        "folder": "/somewhere",
    }


@pytest.fixture
def source(monkeypatch):
    """Stands for what the transports receive; a function sets the model that comes, and where it breaks off."""
    coming = {}

    def steps(into):
        coming["thread"] = threading.current_thread().name
        try:
            for number, (name, value) in enumerate(coming["model"].named_parameters()):
                if number == coming["cut"]:
                    raise RefitError("the sender is gone")
                yield name, into[name].copy_(value) if number % 2 else value
        finally:
            coming["closed"] = True
        return "c0ffee"

    def read(offer, seat, into, joined):
        assert seat == 0
        if coming["cut"] == 0:
            raise RefitError("the sender is not there")
        return Reading(steps(into))

    def bring(model, cut=None):
        coming.update(model=model, cut=cut, closed=False)
        return coming

    monkeypatch.setattr(served_module, "read", read)
    return bring


def test_calls_side_by_side_each_get_their_own(world):
    wanted = engine_of(world).generate(REQUESTS, PARAMS)
    greedy = replace(PARAMS, temperature=0.0, max_tokens=3)
    wanted_greedy = engine_of(world).generate(REQUESTS[:2], greedy)

    async def body(served):
        found = await asyncio.gather(
            collect(served), collect(served, REQUESTS[:2], greedy), collect(served, REQUESTS[::-1]), collect(served, [])
        )
        for got, expected in zip(found, (wanted, wanted_greedy, wanted[::-1], []), strict=True):
            assert [r.token_ids for r in got] == [r.token_ids for r in expected]
        assert served.load() == {"running": 0, "waiting": 0, "free_tokens": 4 * 230}
        assert (served.name, served.deterministic, served.ranks, served.version) == ("local", True, 1, 0)

    run(world, body)


def test_samples_come_as_they_finish(world):
    async def body(served):
        stream = served.generate([Request((1, 2), 0, 0), Request((1, 2), 0, 1, 2)], LONG)
        assert (await anext(stream))[0] == 1
        load = served.load()
        assert load["running"] == 1 and 0 < load["free_tokens"] < 4 * 230
        await stream.aclose()

    run(world, body, token_delay_s=0.002)


def test_a_closed_iterator_aborts_what_is_left(world, monkeypatch):
    """Whether it runs, waits for a place, or waits behind something that waits for what runs."""
    finished = []

    async def body(served):
        step = served.engine.step

        def watched():
            time.sleep(0.02)  # none but the first ends before it is given up
            found = step()
            finished.extend(found)
            return found

        monkeypatch.setattr(served.engine, "step", watched)
        stream = served.generate([Request((1, 2), p, 0, 2 if p == 0 else None) for p in range(9)], LONG)
        await anext(stream)
        assert served.load()["running"] + served.load()["waiting"] == 8
        sleeping = asyncio.create_task(served.sleep())
        behind = asyncio.create_task(collect(served))
        await until(lambda: served.load()["waiting"] == 8 - served.load()["running"] + len(REQUESTS))
        behind.cancel()
        await stream.aclose()
        await sleeping
        # The loop closes the iterator that a cancelled task leaves open in a turn of its own.
        await until(lambda: served.load() == {"running": 0, "waiting": 0, "free_tokens": 4 * 230})
        await served.wake()
        served.engine.refit(world[1].named_parameters, version=1)  # its thread has nothing to do
        task = asyncio.create_task(collect(served, params=LONG))
        await until(lambda: served.load()["running"])
        task.cancel()
        await until(lambda: served.load()["running"] + served.load()["waiting"] == 0)
        assert len(finished) == 1

    run(world, body, token_delay_s=0.002)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request((1,) * 21, 0, 0), "21 tokens; at most 20"),
        (Request((VOCABULARY,), 0, 0), "no token id of this model"),
        (Request((1,), -2, 0), "prompt: -2"),
    ],
)
def test_what_can_never_be_answered_is_refused_at_once(world, request_, says):
    async def body(served):
        with pytest.raises(RequestError, match=says):
            served.generate([*REQUESTS, request_], PARAMS)
        assert served.load()["waiting"] == 0

    run(world, body)


def test_a_refit_waits_for_what_runs_and_later_requests_wait_for_it(world, source):
    other = small_model(seed=5)
    coming = source(other)

    async def body(served):
        before = asyncio.create_task(collect(served, params=replace(PARAMS, max_tokens=40)))
        await until(lambda: served.load()["running"])
        refit = asyncio.create_task(served.refit(offer_of(other, 3)))
        await asyncio.sleep(0)
        after = asyncio.create_task(collect(served))
        done = await refit
        assert before.done() and not after.done()
        assert {r.weight_version for r in await before} == {0}
        assert {r.weight_version for r in await after} == {3} and served.version == 3
        sizes = [value.nbytes for value in other.parameters()]
        assert done.pop("seconds") >= 0
        assert done == {"tensors": len(sizes), "bytes": sum(sizes), "checksum": "c0ffee"}
        assert coming["thread"] == "rollout-engine"
        again = engine_of(world)
        again.refit(other.named_parameters, version=3)
        assert [r.token_ids for r in await after] == [r.token_ids for r in again.generate(REQUESTS, PARAMS)]

    run(world, body, token_delay_s=0.001)


def spoiled(offer, how):
    name, dtype, shape = offer["tensors"][2]
    if how == "lacks":
        del offer["tensors"][2]
    elif how == "too many":
        offer["tensors"].append(("model.layers.9.x", "float32", (2,)))
    elif how == "shape":
        offer["tensors"][2] = (name, dtype, (*shape, 1))
    else:
        offer["version"] = -1
    return offer


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("lacks", "offers no tensor"),
        ("too many", "layers.9.x', which the rollout model has not"),
        ("shape", "of shape .* the rollout model has"),
        ("version", "version"),
    ],
)
def test_an_offer_of_another_model_leaves_the_old_weights_serving(world, source, how, says):
    source(world[1], cut=0)  # whoever reads has lost

    async def body(served):
        with pytest.raises(RefitError, match=says):
            await served.refit(spoiled(offer_of(world[1], 3), how))
        assert served.version == 0
        assert len(await collect(served)) == len(REQUESTS)

    run(world, body)


def test_a_sender_that_is_not_there_costs_no_weights(world, source):
    source(world[1], cut=0)

    async def body(served):
        with pytest.raises(RefitError, match="is not there"):
            await served.refit(offer_of(world[1], 3))
        assert served.version == 0 and len(await collect(served)) == len(REQUESTS)

    run(world, body)


def test_a_refit_that_breaks_off_leaves_no_weights_until_the_next(world, source):
    async def body(served):
        coming = source(world[1], cut=4)
        with pytest.raises(RefitError, match="the sender is gone"):
            await served.refit(offer_of(world[1], 3))
        assert served.version is None and coming["closed"]
        with pytest.raises(UserError, match="refit it before generating"):
            await collect(served)
        other = small_model(tie_word_embeddings=False)  # one tensor more, which no offer announced
        coming = source(other)
        with pytest.raises(RefitError, match="lm_head"):
            await served.refit(offer_of(world[1], 3, tensors=False))
        assert served.version is None and coming["closed"]
        source(world[1])
        await served.refit(offer_of(world[1], 4, tensors=False))
        assert {r.weight_version for r in await collect(served)} == {4}

    run(world, body)


def test_a_refit_that_nobody_waits_for_any_more_is_left_out(world, source):
    source(world[1])

    async def body(served):
        before = asyncio.create_task(collect(served, params=replace(PARAMS, max_tokens=60)))
        await until(lambda: served.load()["running"])
        refit = asyncio.create_task(served.refit(offer_of(world[1], 3)))
        await asyncio.sleep(0.01)
        refit.cancel()
        await before
        assert {r.weight_version for r in await collect(served)} == {0}

    run(world, body, token_delay_s=0.001)


def test_a_failure_in_the_thread_reaches_those_who_wait_and_nobody_else(world, monkeypatch):
    async def body(served):
        step, calls = served.engine.step, itertools.count()

        def failing():
            if next(calls) == 3:
                raise RuntimeError("out of memory")
            return step()

        monkeypatch.setattr(served.engine, "step", failing)
        with pytest.raises(UserError, match="engine failed: RuntimeError: out of memory"):
            await collect(served, params=LONG)
        await until(lambda: served.load() == {"running": 0, "waiting": 0, "free_tokens": 4 * 230})
        assert len(await collect(served)) == len(REQUESTS)

    run(world, body)


def test_stop_ends_what_is_under_way_and_the_thread(world):
    async def body(served):
        running = asyncio.create_task(collect(served, params=LONG))
        await until(lambda: served.load()["running"])
        sleeping = asyncio.create_task(served.sleep())  # it waits behind what runs
        await asyncio.sleep(0.01)
        await served.stop()
        for task in (running, sleeping):
            with pytest.raises(UserError, match="was stopped"):
                await task
        assert "rollout-engine" not in [thread.name for thread in threading.enumerate()]
        with pytest.raises(UserError, match="does not run"):
            await collect(served)

    run(world, body, token_delay_s=0.002)


def test_sleep_and_wake(world, source):
    source(world[1])

    async def body(served):
        facts = served.tensors()
        wanted = await collect(served)
        await served.sleep()
        assert served.version is None and served.tensors() == facts
        with pytest.raises(RefitError, match="wake it first"):
            await served.refit(offer_of(world[1], 3))
        await served.wake()
        await served.refit(offer_of(world[1], 3))
        assert [r.token_ids for r in await collect(served)] == [r.token_ids for r in wanted]
        assert facts["model.norm.weight"] == ("float32", (32,))
        assert facts.keys() == dict(world[1].named_parameters()).keys()

    run(world, body)


@pytest.mark.parametrize("tied", [True, False])
def test_a_folders_weights(tmp_path, tied):
    """A head beside tied weights is passed over: some tools write one."""
    model = write_small_model(tmp_path, tie_word_embeddings=tied)
    stored = load_file(tmp_path / SINGLE)
    stored["lm_head.weight"] = stored.get("lm_head.weight", torch.zeros(2, 2))
    save_file({name: value.bfloat16() for name, value in stored.items()}, tmp_path / SINGLE, {"format": "pt"})
    engine = LocalEngine(tmp_path, CPU, 2)
    load_folder(engine, tmp_path)
    assert engine.version == 0
    for name, value in model.named_parameters():
        assert torch.equal(engine.parameters[name], value.bfloat16().float())
    del stored["model.norm.weight"]
    save_file(stored, tmp_path / SINGLE, {"format": "pt"})
    with pytest.raises(UserError, match="no tensor 'model.norm.weight'"):
        load_folder(LocalEngine(tmp_path, CPU, 2), tmp_path)
