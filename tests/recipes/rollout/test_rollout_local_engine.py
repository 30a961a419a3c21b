"""The local engine against transformers itself, and against its own promise: same seed, same weights, same tokens."""

import random
from dataclasses import replace

import pytest
import torch
from tiny_helpers import small_model, small_tokenizer, write_small_model

from crossthink.errors import UserError
from recipes.rollout.interface import Request, SamplingParams
from recipes.rollout.local.engine import LocalEngine

CPU = torch.device("cpu")
VOCABULARY = len(small_tokenizer())
TEXTS = (
    "What is 12 + 30?",
    "Of Ana, 7, and Ben, 9, who is older?",
    "A",
    "<|im_start|>user\nChoose one: A. pens B. cups<|im_end|>\n<|im_start|>assistant\n",
    "What is 12 + 31?",  # as long as the first
)
PROMPTS = [tuple(small_tokenizer()(text)["input_ids"]) for text in TEXTS]
PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=12, stop_ids=(), vocabulary=VOCABULARY, seed=11, step=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def world(request, tmp_path_factory):
    """A model's folder, the model, and an engine with its weights."""
    folder = tmp_path_factory.mktemp("model")
    model = write_small_model(folder, tie_word_embeddings=request.param)
    engine = LocalEngine(folder, CPU, batch_size=64)
    engine.refit(model.named_parameters, version=1)
    return folder, model, engine


def engine_of(world, batch_size):
    folder, model, _ = world
    engine = LocalEngine(folder, CPU, batch_size)
    engine.refit(model.named_parameters, version=1)
    return engine


def requests_of(group=3):
    return [Request(ids, p, g) for p, ids in enumerate(PROMPTS) for g in range(group)]


def test_greedy_is_what_transformers_generates(world):
    """Token for token, for prompts of different length side by side, stop tokens included."""
    _, model, engine = world
    stop = tuple(range(40))  # so that some answers end early
    params = replace(PARAMS, temperature=0.0, max_tokens=24, stop_ids=stop, vocabulary=model.config.vocab_size)
    found = engine.generate([Request(ids, p, 0) for p, ids in enumerate(PROMPTS)], params)
    for ids, response in zip(PROMPTS, found, strict=True):
        wanted = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=list(stop),
            pad_token_id=0,
        )[0, len(ids) :].tolist()
        assert response.token_ids == wanted
        assert response.finish_reason == ("stop" if wanted[-1] in stop else "length")
    assert len({len(r.token_ids) for r in found}) > 1  # or the test says little


def same(one, other):
    assert [r.token_ids for r in one] == [r.token_ids for r in other]
    assert [r.finish_reason for r in one] == [r.finish_reason for r in other]
    for a, b in zip(one, other, strict=True):
        assert a.log_probs == pytest.approx(b.log_probs, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_responses_do_not_depend_on_the_batch_size(world, batch_size):
    params = replace(PARAMS, stop_ids=tuple(range(60)))
    wanted = world[2].generate(requests_of(), params)
    same(engine_of(world, batch_size).generate(requests_of(), params), wanted)


@pytest.mark.parametrize("seed", range(3))
def test_responses_do_not_depend_on_order_or_neighbours(world, seed):
    params = replace(PARAMS, stop_ids=tuple(range(60)), top_p=0.9, temperature=0.8)
    requests = requests_of()
    wanted = world[2].generate(requests, params)
    chosen = random.Random(seed).sample(range(len(requests)), 6)
    same(world[2].generate([requests[i] for i in chosen], params), [wanted[i] for i in chosen])


def test_samples_differ_by_seed_step_prompt_and_sample(world):
    def tokens(params, *requests):
        return [tuple(r.token_ids) for r in world[2].generate(requests, params)]

    base = [Request(PROMPTS[0], 0, 0), Request(PROMPTS[0], 0, 1), Request(PROMPTS[0], 1, 0)]
    found = tokens(PARAMS, *base)
    found += tokens(replace(PARAMS, seed=12), *base) + tokens(replace(PARAMS, step=3), *base)
    assert len(set(found)) == 9
    assert tokens(PARAMS, *base) == found[:3]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_log_probs_are_those_of_a_forward_pass(world, temperature):
    """Teacher-forced over prompt and response without any cache, at the temperature, over the tokenizer's ids."""
    _, model, engine = world
    params = replace(PARAMS, temperature=temperature, top_p=0.9, stop_ids=(5, 6, 7))
    for request, response in zip(requests_of(2), engine.generate(requests_of(2), params), strict=True):
        ids = torch.tensor([[*request.prompt_ids, *response.token_ids]])
        logits = model(ids[:, :-1]).logits[0, :, :VOCABULARY] / (temperature or 1.0)
        wanted = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[len(request.prompt_ids) - 1 :, 0]
        assert response.log_probs == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_stop_id_ends_a_response_and_belongs_to_it(world):
    stop = tuple(range(0, VOCABULARY, 7))
    found = world[2].generate(requests_of(8), replace(PARAMS, stop_ids=stop, max_tokens=10))
    ends = {"stop": 0, "length": 0}
    for response in found:
        inner, last = response.token_ids[:-1], response.token_ids[-1]
        assert not set(inner) & set(stop)
        assert response.finish_reason == ("stop" if last in stop else "length")
        assert last in stop or len(response.token_ids) == 10
        assert len(response.log_probs) == len(response.token_ids) <= 10
        ends[response.finish_reason] += 1
    assert ends["stop"] and ends["length"]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_limit_cuts(world, limit):
    found = world[2].generate(requests_of(), replace(PARAMS, max_tokens=limit))
    assert {(len(r.token_ids), r.finish_reason) for r in found} == {(limit, "length")}
    # The same tokens as without the limit.
    longer = world[2].generate(requests_of(), PARAMS)
    assert [r.token_ids for r in found] == [r.token_ids[:limit] for r in longer]


def test_a_stop_at_the_limit_is_a_stop(world):
    """The answer is whole."""
    everything = tuple(range(VOCABULARY))
    found = world[2].generate(requests_of(1), replace(PARAMS, max_tokens=1, stop_ids=everything))
    assert {(len(r.token_ids), r.finish_reason) for r in found} == {(1, "stop")}


def test_padded_ids_are_never_drawn(tmp_path):
    """The embedding's padded rows get the largest logits; nobody may see them."""
    model = write_small_model(tmp_path, tie_word_embeddings=False)
    assert model.config.vocab_size > VOCABULARY
    weights = dict(model.named_parameters())
    weights["lm_head.weight"] = weights["lm_head.weight"].clone()
    weights["lm_head.weight"][VOCABULARY:] *= 1000
    engine = LocalEngine(tmp_path, CPU, batch_size=8)
    engine.refit(weights.items, version=0)
    for temperature in (0.0, 1.0):
        found = engine.generate(requests_of(), replace(PARAMS, temperature=temperature))
        assert max(token for r in found for token in r.token_ids) < VOCABULARY


def test_nothing_to_generate(world):
    assert world[2].generate([], PARAMS) == []


def spoiled(weights, how):
    names = sorted(weights)
    if how == "missing":
        del weights[names[3]]
    elif how == "extra":
        weights["model.layers.9.mlp.up_proj.weight"] = torch.zeros(2, 2)
    elif how == "misshapen":
        weights[names[3]] = weights[names[3]].flatten()[:-1]
    return weights


@pytest.mark.parametrize("how", ["missing", "extra", "misshapen", "cut off"])
def test_half_a_refit_is_refused_until_a_whole_one(world, how):
    """An engine with weights of two versions would make rollouts that nobody's policy made."""
    folder, model, _ = world
    engine = LocalEngine(folder, CPU, batch_size=8)
    with pytest.raises(UserError, match="refit it before generating"):
        engine.generate(requests_of(), PARAMS)
    engine.refit(model.named_parameters, version=4)
    before = engine.generate(requests_of(1), PARAMS)
    weights = spoiled(
        dict(small_model(seed=9, tie_word_embeddings=model.config.tie_word_embeddings).named_parameters()), how
    )
    if how == "cut off":

        def stream():
            yield next(iter(weights.items()))
            raise ConnectionError("gone")

        with pytest.raises(ConnectionError):
            engine.refit(stream, version=5)
    else:
        with pytest.raises(UserError, match="Refit"):
            engine.refit(weights.items, version=5)
    with pytest.raises(UserError, match="refit it before generating"):
        engine.generate(requests_of(), PARAMS)
    engine.refit(model.named_parameters, version=6)
    after = engine.generate(requests_of(1), PARAMS)
    assert [r.token_ids for r in after] == [r.token_ids for r in before]
    assert {r.weight_version for r in before} == {4} and {r.weight_version for r in after} == {6}


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("model.norm.weight", (31,), r"'model.norm.weight' of shape \(31,\); the rollout model has shape \(32,\)"),
        ("model.layers.7.x", (2, 2), r"'model.layers.7.x' of shape \(2, 2\); the rollout model has no such tensor"),
    ],
)
def test_a_refused_refit_says_what_and_how(world, name, shape, says):
    engine = LocalEngine(world[0], CPU, batch_size=8)
    with pytest.raises(UserError, match=says):
        engine.refit(lambda: [(name, torch.zeros(shape))], version=0)


def test_a_refit_copies(world):
    """The actor goes on to change its weights; the engine's stay those of the refit."""
    folder, model, _ = world
    engine = LocalEngine(folder, CPU, batch_size=8)
    weights = {name: value.clone() for name, value in model.named_parameters()}
    engine.refit(weights.items, version=0)
    before = engine.generate(requests_of(1), PARAMS)
    for value in weights.values():
        value.zero_()
    same(engine.generate(requests_of(1), PARAMS), before)


def test_a_refit_changes_what_is_generated(world):
    folder, model, _ = world
    engine = LocalEngine(folder, CPU, batch_size=8)
    engine.refit(model.named_parameters, version=0)
    before = engine.generate(requests_of(1), PARAMS)
    other = small_model(seed=5, tie_word_embeddings=model.config.tie_word_embeddings)
    engine.refit(other.named_parameters, version=1)
    assert [r.token_ids for r in engine.generate(requests_of(1), PARAMS)] != [r.token_ids for r in before]
