import json
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import UserError
from data_prep.blend_sampler import BLOCK, BlendSampler, Draw, next_counts, permutation
from data_prep.sources import SOURCES

REPO = Path(__file__).parents[2]
PAPER = {name: source.paper_rows for name, source in SOURCES.items() if source.paper_rows}

counts_and_weights = st.dictionaries(
    st.sampled_from(sorted(SOURCES)), st.tuples(st.integers(1, 400), st.floats(0.001, 10)), min_size=1
).map(lambda d: ({name: rows for name, (rows, _) in d.items()}, {name: weight for name, (_, weight) in d.items()}))


def test_no_weights_take_sources_as_they_are():
    sampler = BlendSampler({"math": 300, "syn_qa": 100, "numina_math": 0}, {}, seed=0)
    assert sampler.shares == {"math": Fraction(3, 4), "syn_qa": Fraction(1, 4)}


@settings(deadline=None, max_examples=60)
@given(counts_and_weights, st.integers(0, 2**40), st.integers(0, 3000))
def test_resuming_at_any_draw_goes_on_identically(mixture, seed, stop):
    counts, weights = mixture
    straight = BlendSampler(counts, weights, seed)
    straight.draw(stop)
    state = json.loads(json.dumps(straight.state_dict()))
    resumed = BlendSampler(dict(reversed(counts.items())), dict(reversed(weights.items())), seed)
    resumed.draw(5)
    resumed.load_state_dict(state)
    assert resumed.draw(300) == straight.draw(300) == [resumed.locate(i) for i in range(stop, stop + 300)]


@settings(deadline=None, max_examples=60)
@given(counts_and_weights, st.integers(0, 2**40))
def test_every_epoch_is_a_permutation_of_its_own(mixture, seed):
    counts, weights = mixture
    seen = defaultdict(list)
    for draw in BlendSampler(counts, weights, seed).draw(2500):
        seen[draw.source, draw.epoch].append(draw.index)
    for (source, epoch), indices in seen.items():
        assert len(set(indices)) == len(indices) and set(indices) <= set(range(counts[source]))
        if (source, epoch + 1) in seen:
            assert sorted(indices) == list(range(counts[source]))
            if counts[source] > 30 and len(seen[source, epoch + 1]) == counts[source]:
                assert indices != seen[source, epoch + 1]


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=3), st.fractions(0, 1), min_size=1, max_size=40), st.integers(1, 200))
def test_block_counts_never_drift_and_never_go_back(parts, block):
    total = sum(parts.values())
    if not total:
        return
    targets = {source: part / total for source, part in parts.items()}
    drawn = dict.fromkeys(targets, 0)
    for end in range(block, 40 * block, block):
        after = next_counts(drawn, targets, end)
        assert sum(after.values()) == end
        assert all(after[source] >= drawn[source] for source in targets)
        assert all(-len(targets) < after[source] - share * end < 1 for source, share in targets.items())
        drawn = after


@settings(deadline=None, max_examples=15)
@given(counts_and_weights, st.lists(st.integers(0, 4000), min_size=1, max_size=8))
def test_any_draw_can_be_asked_for_in_any_order(mixture, places):
    counts, weights = mixture
    straight = BlendSampler(counts, weights, 5).draw(4001)
    jumping = BlendSampler(counts, weights, 5)
    assert [jumping.locate(place) for place in places] == [straight[place] for place in places]


def test_memory_does_not_grow_with_the_draws():
    sampler = BlendSampler({"math": 500, "syn_qa": 900}, {"math": 1, "syn_qa": 3}, 0)
    sizes = set()
    for _ in range(20):  # 40,000 draws: 20 passes over one source, 33 over the other
        sampler.draw(2000)
        sizes.add(len(pickle.dumps(sampler)) // 1000)
    assert max(sizes) - min(sizes) <= 1 and max(sizes) < 20
    assert len(json.dumps(sampler.state_dict())) < 300


def test_seeds_and_sources_have_orders_of_their_own():
    def order(seed, counts=PAPER):
        return BlendSampler(counts, {}, seed).draw(500)

    assert order(0) == order(0) != order(1)
    twins = BlendSampler({"math": 512, "syn_qa": 512}, {}, 0).draw(8 * BLOCK)
    rows = {source: [draw.index for draw in twins if draw.source == source] for source in ("math", "syn_qa")}
    assert rows["math"] != rows["syn_qa"] and sorted(rows["math"]) == sorted(rows["syn_qa"]) == list(range(512))
    assert permutation(0, "x").tolist() == [] and sorted(permutation(9, "x").tolist()) == list(range(9))
    with pytest.raises(IndexError):
        BlendSampler(PAPER, {}, 0).locate(-1)


def test_the_order_is_fixed_for_good():
    # Written out: a run resumed under another release, numpy or machine must draw the same prompts.
    draws = BlendSampler({"math": 10, "syn_qa": 20}, {"math": 1, "syn_qa": 3}, seed=7).draw(6)
    assert draws == [
        Draw("math", 0, 0),
        Draw("math", 9, 0),
        Draw("syn_qa", 0, 0),
        Draw("syn_qa", 15, 0),
        Draw("math", 6, 0),
        Draw("syn_qa", 7, 0),
    ]


def test_the_order_does_not_depend_on_the_process():
    code = (
        "import numpy, random; numpy.random.seed(5); random.seed(5);"
        "from data_prep.blend_sampler import BlendSampler;"
        "print(BlendSampler({'math': 50, 'syn_qa': 70}, {}, 3).draw(400))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPO,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert printed == {f"{BlendSampler({'math': 50, 'syn_qa': 70}, {}, 3).draw(400)}\n".encode()}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"math": -1.0}, "weight of math is -1.0. Weights are finite numbers of 0 or more."),
        ({"math": float("nan")}, "weight of math is nan"),
        ({"math": float("inf")}, "weight of math is inf"),
        ({"math": 0.0, "syn_qa": 0.0}, "weights are all 0. At least one must be positive."),
        (
            {"math": 1.0, "numina_math": 1.0},
            "draws from numina_math, which has no rows in /p. Its sources are math, syn_qa.",
        ),
        ({"empty": 1.0}, "draws from empty, which has no rows in /p."),
    ],
)
def test_impossible_weights_are_refused(weights, says):
    with pytest.raises(UserError) as error:
        BlendSampler({"math": 3, "syn_qa": 4, "empty": 0}, weights, 0, pool="/p")
    assert says in str(error.value)


def test_an_empty_pool_is_refused():
    with pytest.raises(UserError, match="/p has no rows"):
        BlendSampler({"math": 0}, {}, 0, pool="/p")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            ({"math": 4, "syn_qa": 9}, {"math": 1, "syn_qa": 1}, 0),
            "rows per source: saved {'math': 3, 'syn_qa': 9}, now",
        ),
        (
            ({"math": 3, "syn_qa": 9}, {"math": 1, "syn_qa": 2}, 0),
            "shares: saved {'math': '1/2', 'syn_qa': '1/2'}, now",
        ),
        (({"math": 3, "syn_qa": 9}, {"math": 1, "syn_qa": 1}, 8), "seed: saved 0, now 8"),
    ],
)
def test_a_position_of_another_order_is_refused(other, says):
    state = BlendSampler({"math": 3, "syn_qa": 9}, {"math": 1, "syn_qa": 1}, 0).state_dict()
    with pytest.raises(UserError) as error:
        BlendSampler(*other).load_state_dict(state)
    assert says in str(error.value) and "Resume with the pool, blend and seed" in str(error.value)
    with pytest.raises(UserError, match="damaged state"):
        BlendSampler({"math": 3, "syn_qa": 9}, {"math": 1, "syn_qa": 1}, 0).load_state_dict(
            state | {"fingerprint": "x"}
        )


def test_weights_of_any_sum_mean_the_same():
    state = BlendSampler(PAPER, {"math": 1, "syn_qa": 3}, 0).state_dict()
    BlendSampler(PAPER, {"syn_qa": 0.75, "math": 0.25, "numina_math": 0.0}, 0).load_state_dict(state)
