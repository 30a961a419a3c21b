"""A checkpoint's answers on the local engine: the same whatever is asked beside, and as a server gives them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from train_helpers import TinyWorld, rollout_server, succeed

from conf.evaluate import EvalConfig
from conf.rollout import LocalRolloutConfig
from crossthink.errors import ConfigError, UserError
from recipes.evaluation.answers import Answer
from recipes.evaluation.local import LocalAnswerer, weights_sha256
from recipes.evaluation.questions import Asked, from_pool

pytestmark = pytest.mark.timeout(300, func_only=True)


def config(world: TinyWorld, batch_size: int = 16, **values: Any) -> EvalConfig:
    rollout = LocalRolloutConfig(batch_size=batch_size)
    fields = {"checkpoint": str(world.base), "max_response_tokens": 40, "threads": 1, "out": "o"}
    return EvalConfig(**{**fields, **values}, rollout=rollout)


def by_pair(wanted: EvalConfig, pairs: list[tuple[Asked, int]]) -> dict[tuple[str, int], Answer]:
    with LocalAnswerer(wanted) as answerer:
        found = dict(answerer.answers(pairs))
    assert sorted(found) == list(range(len(pairs)))
    return {(pairs[n][0].row.id, pairs[n][1]): answer for n, answer in found.items()}


@pytest.fixture
def pairs(tiny_world: TinyWorld) -> list[tuple[Asked, int]]:
    """36 questions, three runs each."""
    return [(one, run) for one in from_pool(tiny_world.held_out, 6).asked for run in range(3)]


def test_three_greedy_runs_are_one(tiny_world: TinyWorld, pairs: list[tuple[Asked, int]]) -> None:
    found = by_pair(config(tiny_world), pairs)
    for one, _ in pairs:
        assert found[one.row.id, 0] == found[one.row.id, 1] == found[one.row.id, 2]
    assert len({answer.text for answer in found.values()}) > 6
    few = by_pair(config(tiny_world, batch_size=64), pairs[30:41])
    assert few == {key: found[key] for key in few}, "an answer depends on nothing that is asked beside"


def test_draws_depend_on_question_run_and_seed(tiny_world: TinyWorld, pairs: list[tuple[Asked, int]]) -> None:
    found = by_pair(config(tiny_world, temperature=1.5), pairs)
    differing = sum(found[one.row.id, 0] != found[one.row.id, 1] for one, run in pairs if run == 0)
    assert differing > 18
    few = by_pair(config(tiny_world, temperature=1.5, batch_size=64), pairs[30:41])
    assert few == {key: found[key] for key in few}
    assert by_pair(config(tiny_world, temperature=1.5, seed=1), pairs[:12]) != dict(list(found.items())[:12])


def test_stopping_ends_it_between_two_tokens(tiny_world: TinyWorld, pairs: list[tuple[Asked, int]]) -> None:
    with LocalAnswerer(config(tiny_world)) as answerer:
        answers: Iterator[Any] = answerer.answers(pairs, stopped=lambda: True)
        assert list(answers) == []


def test_an_answer_that_is_cut_off_says_so(tiny_world: TinyWorld, pairs: list[tuple[Asked, int]]) -> None:
    found = by_pair(config(tiny_world, max_response_tokens=3), pairs[:3])
    assert {(answer.tokens, answer.finish_reason) for answer in found.values()} == {(3, "length")}


def test_a_checkpoint_without_its_tokenizer(tiny_world: TinyWorld, tmp_path: Path) -> None:
    shutil.copytree(tiny_world.base, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=rf"{tmp_path / 'model'} has no tokenizer\.json: a model folder needs its"):
        LocalAnswerer(config(tiny_world, checkpoint=str(tmp_path / "model")))
    with pytest.raises(ConfigError, match="checkpoint=/nowhere is neither a run folder"):
        LocalAnswerer(config(tiny_world, checkpoint="/nowhere"))


def test_facts_change_with_the_weights(tiny_world: TinyWorld, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_world.base, model)
    facts = LocalAnswerer(config(tiny_world)).facts()
    moved = LocalAnswerer(config(tiny_world, checkpoint=str(model))).facts()
    assert moved == facts | {"checkpoint": str(model)}
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert weights_sha256(model) != facts["weights_sha256"]
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    seen = set()
    for text in ("x", "y"):
        (model / "one.safetensors").write_text("same")
        (model / "two.safetensors").write_text(text)
        seen.add(weights_sha256(model))
    assert len(seen) == 2, "a shard counts, not only the index"


def test_a_server_gives_the_same_answers(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """`crossthink serve-rollout` in a process of its own, asked with OpenAI's client, against the engine in-process."""
    common = [
        f"data={tiny_world.held_out}",
        "limit=6",
        "runs=1",
        "max_response_tokens=40",
        "threads=1",
        tiny_world.judged,
    ]
    with rollout_server(tiny_world, tmp_path, more=()) as (_, url):
        succeed("eval", f"endpoint={url}/v1", f"out={tmp_path / 'served'}", *common)
    succeed("eval", f"checkpoint={tiny_world.base}", f"out={tmp_path / 'here'}", *common)
    served, here = (
        [json.loads(line) for line in (tmp_path / name / "samples.jsonl").read_text().splitlines()]
        for name in ("served", "here")
    )
    assert len(here) == 36 and served == here
    assert 0 < sum(line["verdict"]["accuracy"] for line in here) < 36
