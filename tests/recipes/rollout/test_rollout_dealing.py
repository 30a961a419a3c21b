"""Which group goes to which server: nothing lost, nothing asked of two, groups kept together, slow servers spared."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.rollout.client import dealing
from recipes.rollout.client.dealing import MOST_SAMPLES, SHARE, Dealing
from recipes.rollout.interface import Request, SamplingParams

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=20, stop_ids=(0,), vocabulary=50, seed=3, step=5)


def group(prompt, samples, prompt_tokens=10, max_tokens=None):
    return [Request((1,) * prompt_tokens, prompt, sample, max_tokens) for sample in range(samples)]


def even(groups, samples=4):
    return [request for prompt in range(groups) for request in group(prompt, samples)]


@st.composite
def workloads(draw):
    """Groups of unlike sizes, prompts and budgets, shuffled together; servers; and the order of events."""
    sizes = draw(
        st.lists(st.tuples(st.integers(1, 5), st.integers(1, 30), st.integers(1, 25)), min_size=1, max_size=12)
    )
    requests = [one for prompt, size in enumerate(sizes) for one in group(prompt, *size)]
    seed = draw(st.integers(0, 2**32))
    random.Random(seed).shuffle(requests)
    return requests, [f"server{n}" for n in range(draw(st.integers(1, 4)))], random.Random(seed + 1)


@given(workloads())
@settings(deadline=None, max_examples=150)
def test_whatever_happens_every_sample_finishes_once_and_is_held_by_one_server(workload):
    requests, servers, chance = workload
    deal = Dealing(requests, PARAMS, servers)
    cost = [request.budget(PARAMS) for request in requests]
    held = {server: set() for server in servers}
    finished = []
    for step in range(10_000):
        if not deal.left:
            break
        storm = step < 200  # afterwards no server fails, so that it ends
        ready = [server for server in servers if not storm or chance.random() < 0.7]
        before = {server: deal.outstanding(server) for server in servers}
        empty = {server for server in servers if not held[server]}
        for server, groups in deal.deal(ready, len(ready)).items():
            assert server in ready
            for indices in groups:
                assert len({requests[index].prompt for index in indices}) == 1
                assert not held[server] & set(indices)
                held[server] |= set(indices)
            window = (SHARE if len(servers) > 1 else 1.0) * deal._total / len(ready)
            assert deal.outstanding(server) <= window or (len(groups) == 1 and server in empty), before
        under_way = [index for indices in held.values() for index in indices]
        assert len(set(under_way)) == len(under_way) and not set(under_way) & set(finished)
        for server in servers:
            # A group is in one place: the prompt is computed once.
            prompts = {requests[index].prompt for index in held[server]}
            elsewhere = {requests[index].prompt for other in servers if other != server for index in held[other]}
            assert not prompts & elsewhere
            tokens = sum(cost[index] for index in held[server])
            tokens += sum(len(requests[[one.prompt for one in requests].index(p)].prompt_ids) for p in prompts)
            assert deal.outstanding(server) == tokens
        for server in servers:
            for index in chance.sample(sorted(held[server]), chance.randint(0, len(held[server]))):
                assert deal.finish(server, index) and not deal.finish(server, index)
                held[server].remove(index)
                finished.append(index)
            if storm and chance.random() < 0.3:
                prompts = {requests[index].prompt for index in held[server]}
                some = None if chance.random() < 0.5 else {p for p in prompts if chance.random() < 0.5}
                back = {index for index in held[server] if some is None or requests[index].prompt in some}
                if chance.random() < 0.5:
                    deal.narrow(server)
                assert deal.give_back(server, some) == len(back)
                held[server] -= back
        assert deal.left == len(requests) - len(finished)
    assert sorted(finished) == list(range(len(requests)))
    assert all(deal.outstanding(server) == 0 for server in servers)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), min_size=1, max_size=20), st.integers(2, 4))
def test_a_group_goes_to_the_server_with_the_fewest_outstanding_tokens(sizes, count):
    requests = [one for prompt, size in enumerate(sizes) for one in group(prompt, *size)]
    servers = [f"server{n}" for n in range(count)]
    dealt = Dealing(requests, PARAMS, servers).deal(servers, count)
    place = {requests[indices[0]].prompt: server for server, groups in dealt.items() for indices in groups}
    tokens = dict.fromkeys(servers, 0)
    for prompt, (samples, prompt_tokens) in enumerate(sizes):
        if prompt not in place:
            break
        mine = tokens[place[prompt]]
        added = prompt_tokens + 20 * samples
        window = SHARE * sum(tokens + 20 * samples for samples, tokens in sizes) / count
        with_room = [held for held in tokens.values() if held == 0 or held + added <= window]
        assert mine == min(with_room)
        tokens[place[prompt]] += added


def test_a_server_that_finishes_nothing_gets_its_first_share_and_no_more():
    requests = even(40)
    deal = Dealing(requests, PARAMS, ["slow", "fast"])
    counts = Counter()
    while True:
        dealt = deal.deal(["slow", "fast"], 2)
        for server, groups in dealt.items():
            counts[server] += len(groups)
        done = [index for groups in dealt.get("fast", []) for index in groups]
        if not done:
            break
        assert all(deal.finish("fast", index) for index in done)
    assert counts == {"slow": 15, "fast": 25}  # 0.75 of a fair share of 20, and all the rest


def test_what_a_dead_server_had_not_finished_is_dealt_first_and_together():
    requests = even(8)
    deal = Dealing(requests, PARAMS, ["a", "b"])
    first = deal.deal(["a", "b"], 2)
    assert first == {
        "a": [[0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18, 19]],
        "b": [[4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23]],
    }
    assert deal.finish("a", 1) and deal.finish("a", 8)
    assert deal.give_back("a") == 10 and deal.outstanding("a") == 0
    assert not deal.finish("a", 0)  # a late answer of the dead one counts for nothing
    assert deal.deal(["b"], 1) == {"b": [[0, 2, 3], [9, 10, 11], [16, 17, 18, 19]]}


def test_one_server_alone_is_given_everything_up_to_the_limit(monkeypatch):
    assert Dealing(even(8), PARAMS, ["a"]).deal(["a"], 1) == {"a": [[4 * p + s for s in range(4)] for p in range(8)]}
    monkeypatch.setattr(dealing, "MOST_SAMPLES", 9)
    deal = Dealing(even(8), PARAMS, ["a"])
    deal._held["a"].most = 9
    assert len(deal.deal(["a"], 1)["a"]) == 2


def test_a_full_server_is_given_less_and_then_more_with_every_sample():
    deal = Dealing(even(64), PARAMS, ["a"])
    assert len(deal.deal(["a"], 1)["a"]) == 64
    deal.narrow("a")
    deal.give_back("a")
    assert len(deal.deal(["a"], 1)["a"]) == 32  # half of the 256 samples that were too many
    for index in range(40):
        assert deal.finish("a", index)
    assert len(deal.deal(["a"], 1)["a"]) == 20  # 88 are held; 128 + 40 may be
    for _ in range(20):
        deal.narrow("a")
        deal.give_back("a")
        assert len(deal.deal(["a"], 1)["a"]) >= 1
    assert MOST_SAMPLES > 256


def test_numbers_that_key_the_draws_are_unique():
    with pytest.raises(ValueError, match="two of prompt 1 have one sample number"):
        Dealing([*group(0, 2), *group(1, 1), *group(1, 1)], PARAMS, ["a"])
    with pytest.raises(ValueError, match="prompt number 1 stands for different prompts"):
        Dealing([Request((1,), 1, 0), Request((2,), 1, 1)], PARAMS, ["a"])
