"""Samples that come, end and are given up in any order, against one at a time through transformers' own forward."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_helpers import uniforms
from tiny_helpers import small_tokenizer, write_small_model

from crossthink.errors import UserError
from recipes.rollout.interface import RefitError, Request, RequestError, SamplingParams
from recipes.rollout.local import engine as engine_module
from recipes.rollout.local.batch import SORT_EVERY, UNIFORMS
from recipes.rollout.local.engine import ENTRY_SHARE, LocalEngine
from recipes.rollout.local.sampler import draw
from recipes.rollout.local.spans import padding

CPU = torch.device("cpu")
VOCABULARY = len(small_tokenizer())
STOPS = tuple(range(0, VOCABULARY, 9))
PARAMS = SamplingParams(1.0, 1.0, max_tokens=14, stop_ids=STOPS, vocabulary=VOCABULARY, seed=7, step=3)
KINDS = (
    PARAMS,
    replace(PARAMS, temperature=0.0, stop_ids=()),
    replace(PARAMS, temperature=0.7, top_p=0.8, max_tokens=9, seed=8),
    replace(PARAMS, vocabulary=VOCABULARY // 2, step=4),
)
LENGTHS = (1, 2, 5, 5, 11, 40)
PROMPTS = tuple(tuple((7 * p + 3 * i) % VOCABULARY for i in range(n)) for p, n in enumerate(LENGTHS))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model's folder, the model, and what it answers to a request alone."""
    folder = tmp_path_factory.mktemp("model")
    model = write_small_model(folder, initializer_range=0.1)  # logits whose float32 rounding is well below 1e-5

    @functools.cache
    def alone(request, params):
        """Token ids and log-probs, one forward pass over the whole sequence a token, without any cache."""
        uniform = uniforms([request], params)[0]
        ids, log_probs = [], []
        while len(ids) < request.budget(params) and not (ids and ids[-1] in params.stop_ids):
            logits = model(torch.tensor([[*request.prompt_ids, *ids]])).logits[:, -1]
            drawn, log_prob = draw(logits, uniform[len(ids), None], params)
            ids.append(int(drawn))
            log_probs.append(float(log_prob))
        return ids, log_probs

    return folder, model, alone


def engine_of(world, batch_size, **options):
    folder, model, _ = world
    engine = LocalEngine(folder, CPU, batch_size, **options)
    engine.refit(model.named_parameters, version=5)
    return engine


def check(world, request, params, response):
    ids, log_probs = world[2](request, params)
    assert response.token_ids == ids
    assert response.log_probs == pytest.approx(log_probs, abs=1e-5)
    assert response.finish_reason == ("stop" if ids[-1] in params.stop_ids else "length")
    assert response.weight_version == 5


REQUESTS = st.builds(
    Request,
    st.sampled_from(PROMPTS),
    st.integers(0, 2),
    st.integers(0, 3),
    st.none() | st.integers(1, 14),
)
# What happens before each step: requests that come, and numbers of those that are given up.
ARRIVALS = st.lists(
    st.tuples(
        st.lists(st.tuples(REQUESTS, st.sampled_from(KINDS)), max_size=6),
        st.lists(st.integers(0, 20), max_size=2),
        st.integers(1, 6),
    ),
    min_size=1,
    max_size=5,
)


@given(ARRIVALS, st.sampled_from([1, 2, 3, 8, 40]))
@settings(deadline=None, max_examples=60)
@torch.no_grad()
def test_what_comes_and_goes_beside_a_sample_changes_nothing(world, arrivals, batch_size):
    engine = engine_of(world, batch_size)
    asked, found, given_up = {}, {}, set()

    def step():
        before = engine.running + engine.waiting
        finished = engine.step()
        assert engine.running <= batch_size
        assert engine.running + engine.waiting == before - len(finished)
        assert not found.keys() & {ticket for ticket, _ in finished}
        found.update(finished)

    for coming, leaving, steps in arrivals:
        for request, params in coming:
            ticket = 100 + len(asked)
            asked[ticket] = request, params
            engine.submit(ticket, request, params)
        given_up |= {100 + number for number in leaving} & (asked.keys() - found.keys())
        engine.abort([100 + number for number in leaving])
        for _ in range(steps):
            step()
    for _ in range(20 * (len(asked) + 1)):
        step()
    assert (engine.running, engine.waiting, engine.cached_tokens) == (0, 0, 0)
    assert found.keys() == asked.keys() - given_up
    for ticket, response in found.items():
        check(world, *asked[ticket], response)


@torch.no_grad()
def test_long_samples_among_short_ones(world):
    """Past several portions of uniform numbers and of room, with rows that are sorted anew on the way."""
    lengths = [3, 2 * UNIFORMS + 5, 60, 7, 300, 1, 90, 20] * 6
    requests = [Request(PROMPTS[i % 6], i, 0, length) for i, length in enumerate(lengths)]
    params = replace(PARAMS, stop_ids=(), max_tokens=300)
    wanted = {(request.prompt_ids, i): request for i, request in enumerate(requests)}
    found = engine_of(world, 24).generate(requests, params)
    assert [len(response.token_ids) for response in found] == lengths
    model = world[1]
    for request, response in zip(wanted.values(), found, strict=True):
        logits = model(torch.tensor([[*request.prompt_ids, *response.token_ids]])).logits[0, :-1]
        logits = logits[len(request.prompt_ids) - 1 :]
        drawn, log_probs = draw(logits, uniforms([request], params)[0, : len(logits)], params)
        assert response.token_ids == drawn.tolist()
        # Over hundreds of positions float32 rounds to a little more than 1e-5 at these sharp logits.
        np.testing.assert_allclose(response.log_probs, log_probs.numpy(), atol=5e-5)


def test_rows_of_mixed_length_are_sorted(world):
    """Long and short prompts that came by turns: attention soon reads little padding, and each sample stays itself."""
    engine = engine_of(world, 64)
    params = replace(PARAMS, stop_ids=(), max_tokens=SORT_EVERY + 60)
    requests = [Request((i,) * (1 if i % 2 else 100), i, 0, None if i else SORT_EVERY + 50) for i in range(48)]
    found = {}
    for ticket, request in enumerate(requests):
        engine.submit(ticket, request, params)
        found.update(engine.step())
    batch = engine._batch
    assert padding(batch._lengths, [(0, 48)]) > 2000
    while not found:
        found.update(engine.step())
    batch.inputs()
    assert padding(batch._lengths, batch._spans) < 1500
    assert sorted(batch._lengths, reverse=True) == batch._lengths.tolist()
    while engine.running:
        found.update(engine.step())
    for ticket, request in enumerate(requests[:4]):
        check(world, request, params, found[ticket])


class Reads:
    """Counts the prompts that an engine reads."""

    def __init__(self, engine):
        self.prompts = []
        self._read = engine._decoder.read
        engine._decoder.read = self

    def __call__(self, ids_pt, cache, rows_p):
        self.prompts.append(len(ids_pt))
        self._read(ids_pt, cache, rows_p)


def test_a_prompt_is_read_once_for_all_samples_that_overlap(world):
    engine = engine_of(world, 8)
    reads = Reads(engine)
    for sample in range(4):
        engine.submit(sample, Request(PROMPTS[4], 0, sample), PARAMS)
    engine.submit(4, Request(PROMPTS[5], 1, 0, 1), PARAMS)
    engine.step()
    assert reads.prompts == [2]
    engine.submit(5, Request(PROMPTS[4], 0, 9), PARAMS)  # while its siblings run
    engine.step()
    assert reads.prompts == [2]
    engine.abort(range(6))
    engine.submit(6, Request(PROMPTS[4], 0, 0), PARAMS)  # nobody is left to copy from
    engine.step()
    assert reads.prompts == [2, 1]


def test_prompts_with_the_same_hash_are_told_apart(world, monkeypatch):
    monkeypatch.setattr(engine_module, "hash", lambda prompt: 0, raising=False)
    requests = [Request(prompt, p, 0) for p, prompt in enumerate(PROMPTS * 2)]
    found = engine_of(world, 4).generate(requests, PARAMS)
    for request, response in zip(requests, found, strict=True):
        check(world, request, PARAMS, response)


def test_requests_enter_several_at_a_time_and_never_starve(world):
    batch_size = 2 * ENTRY_SHARE
    engine = engine_of(world, batch_size)
    reads = Reads(engine)
    params = replace(PARAMS, stop_ids=(), max_tokens=80)
    for ticket in range(3 * batch_size):
        length = 2 + ticket if ticket < batch_size else 5  # of the first ones, one ends at every step
        engine.submit(ticket, Request((1 + ticket % 50, 2, 3 + ticket // 50), ticket, 0, length), params)
    found = []
    while engine.running or engine.waiting:
        free = batch_size - engine.running
        before = engine.waiting
        found += engine.step()
        entered = before - engine.waiting
        assert entered in (0, min(before, free)) and (entered or free < 2 or not before)
        assert entered != 1 or before == 1
    assert sorted(ticket for ticket, _ in found) == list(range(3 * batch_size))
    assert reads.prompts[0] == batch_size and len(reads.prompts) < batch_size
    # A late one alone waits for nobody.
    for ticket in range(2):
        engine.submit(ticket, Request(PROMPTS[2], ticket, 0), params)
        engine.step()
    assert (engine.running, engine.waiting) == (2, 0)


@pytest.mark.parametrize(
    ("request_", "changes", "says"),
    [
        (Request((), 0, 0), {}, "prompt_ids: empty"),
        (Request((1, 9999), 0, 0), {}, "prompt_ids: 9999 is no token id"),
        (Request((1,) * 30, 0, 0), {}, "max_tokens: 14 after a prompt of 30 tokens is more than the 40"),
        (Request((1,), 0, 0, 0), {}, "max_tokens: 0 is too small"),
        (Request((1,), -1, 0), {}, "prompt: -1 is impossible; at least 0"),
        (Request((1,), 0, 0), {"seed": -4}, "seed: -4 is impossible"),
        (Request((1,), 0, 0), {"temperature": float("nan")}, "temperature: nan"),
        (Request((1,), 0, 0), {"temperature": -0.5}, "temperature: -0.5"),
        (Request((1,), 0, 0), {"top_p": 0.0}, "top_p: 0.0 is impossible; above 0, at most 1"),
        (Request((1,), 0, 0), {"vocabulary": 0}, "vocabulary: 0"),
    ],
)
def test_a_request_that_can_never_be_answered_is_refused(world, request_, changes, says):
    engine = engine_of(world, 4, max_tokens=40)
    with pytest.raises(RequestError, match=says):
        engine.submit(0, request_, replace(PARAMS, **changes))
    assert engine.waiting == 0


def test_generate_leaves_nothing_behind_where_a_request_is_refused(world):
    engine = engine_of(world, 4)
    with pytest.raises(RequestError):
        engine.generate([Request(PROMPTS[5], 0, 0), Request((9999,), 0, 0)], PARAMS)
    assert (engine.running, engine.waiting) == (0, 0)
    check(world, Request(PROMPTS[4], 0, 0), PARAMS, engine.generate([Request(PROMPTS[4], 0, 0)], PARAMS)[0])


def test_a_refit_never_cuts_into_what_runs(world):
    engine = engine_of(world, 1)
    request, params = Request(PROMPTS[4], 0, 0), replace(PARAMS, stop_ids=())
    for ticket in range(2):
        engine.submit(ticket, request, params)
    engine.step()
    for change in (lambda: engine.refit(world[1].named_parameters, version=6), engine.sleep):
        with pytest.raises(RefitError, match="2 requests are under way"):
            change()
    assert engine.version == 5
    found = []
    while engine.running or engine.waiting:
        found += engine.step()
    for _, response in found:
        check(world, request, params, response)


def test_weights_that_are_the_engines_own_are_not_copied(world):
    engine = engine_of(world, 1)
    wanted = engine.generate([Request(PROMPTS[4], 0, 0)], PARAMS)[0]

    writes = {}

    def weights():
        for name, value in world[1].named_parameters():
            engine.parameters[name].zero_()
            engine.parameters[name].copy_(value)  # as a receiver writes
            writes[name] = engine.parameters[name]._version
            yield name, engine.parameters[name]

    engine.refit(weights, version=5)
    assert writes == {name: value._version for name, value in engine.parameters.items()}
    assert engine.generate([Request(PROMPTS[4], 0, 0)], PARAMS)[0] == wanted
    with pytest.raises(RefitError, match="taken it over already"):
        engine.refit(lambda: [*world[1].named_parameters(), next(world[1].named_parameters())], version=6)


def test_sleep_gives_memory_back_and_a_refit_after_wake_brings_the_weights(world):
    engine = engine_of(world, 2)
    request = Request(PROMPTS[4], 0, 0)
    engine.sleep()
    assert sum(value.numel() for value in engine.parameters.values()) == 0
    assert sum(value.numel() for value in engine._model.parameters()) == 0
    for refused, says in (
        (lambda: engine.refit(world[1].named_parameters, version=5), "wake it first"),
        (lambda: engine.generate([request], PARAMS), "refit it before"),
    ):
        with pytest.raises(UserError, match=says):
            refused()
    engine.wake()
    with pytest.raises(UserError, match="refit it before"):
        engine.submit(0, request, PARAMS)
    engine.refit(world[1].named_parameters, version=5)
    check(world, request, PARAMS, engine.generate([request], PARAMS)[0])
