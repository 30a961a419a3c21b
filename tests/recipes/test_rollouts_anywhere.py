"""The same seeds draw the same tokens in this process, on one server, and on three of which one is killed."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest
import torch
from train_helpers import TinyWorld, rollout_server

from data_prep.pool import Pool
from recipes.models.tokenizer import load_tokenizer, stop_ids
from recipes.rl.evaluation import pool_prompts
from recipes.rollout.client.client import RolloutClient
from recipes.rollout.interface import Request, Response, SamplingParams
from recipes.rollout.local.engine import LocalEngine
from recipes.rollout.local.served import load_folder

PROMPTS, GROUP = 24, 8


def assert_same(found: dict[int, Response], wanted: list[Response]) -> None:
    assert sorted(found) == list(range(len(wanted)))
    for index, one in enumerate(wanted):
        assert found[index].token_ids == one.token_ids
        assert found[index].log_probs == pytest.approx(one.log_probs, abs=1e-5)
        assert (found[index].finish_reason, found[index].weight_version) == (one.finish_reason, 0)


def test_the_same_tokens_wherever_they_are_drawn(
    tiny_world: TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    tokenizer = load_tokenizer(tiny_world.base)
    prompts, _ = pool_prompts(Pool.open(tiny_world.pool), tokenizer, 200, limit=PROMPTS)
    requests = [Request(prompts[p].token_ids, p, g) for p in range(PROMPTS) for g in range(GROUP)]
    params = SamplingParams(1.0, 1.0, 40, stop_ids(tokenizer, tiny_world.base), len(tokenizer), seed=3, step=5)
    engine = LocalEngine(tiny_world.base, torch.device("cpu"), 64)
    load_folder(engine, tiny_world.base)
    wanted = engine.generate(requests, params)
    assert len({tuple(one.token_ids) for one in wanted}) > 20
    served = ("token_delay_s=0.02", "batch_size=32")
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(rollout_server(tiny_world, tmp_path, more=served)) for _ in range(3)]
        urls = [url for _, url in servers]
        for number in (1, 3):
            with RolloutClient(urls[:number], deadline_s=60.0, outage_limit_s=30.0) as client:
                found: dict[int, Response] = {}
                for index, response in client.stream(requests, params, 0):
                    found[index] = response
                    if number == 3 and len(found) == 20:
                        servers[1][0].send_signal(signal.SIGKILL)
                assert_same(found, wanted)
                assert bool(client.stats()["redealt"]) == (number == 3)
    assert f"rollout server {urls[1]}" in capfd.readouterr().err
