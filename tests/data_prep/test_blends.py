"""Blends on the sizes of the paper's Table 1: shares, draws, and what a pool must have."""

import json
import re
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.blend import BlendConfig, load_blend, shipped_blends
from crossthink.errors import EXIT_FAILED, EXIT_USAGE, ConfigError, UserError
from data_prep.blend_sampler import BLOCK, BlendSampler
from data_prep.blends import MIXED, blend_weights, describe_blend, group_shares, source_groups
from data_prep.pool import Pool, SourceWriter, rows_file, write_manifest
from data_prep.rows import PoolRow, to_record_batch
from data_prep.sources import SOURCES

# Table 1 of the paper: rows, domain, question type.
TABLE_1 = {
    "mmlu_train": (99_842, "gpr", "mcq"),
    "syn_qa": (192_930, "gpr", "mcq"),
    "natural_reasoning": (100_000, "gpr", "open"),
    "numina_math": (87_350, "math", "math"),
    "personaskill_math": (100_000, "math", "math"),
    "math": (8_523, "math", "math"),
}
COUNTS = {name: rows for name, (rows, _, _) in TABLE_1.items()}
GROUPS = {name: (domain, kind) for name, (_, domain, kind) in TABLE_1.items()}
# Shares that follow from it: six sources in the order above, then general reasoning, then multiple choice.
DERIVED = {
    "nd": (0.1696, 0.3278, 0.1699, 0.1484, 0.1699, 0.0145, 0.6672, 0.4974),
    "mr_up": (0.0847, 0.1637, 0.0849, 0.2973, 0.3404, 0.0290, 0.3333, 0.2485),
    "gpr_up": (0.1695, 0.3275, 0.1697, 0.1487, 0.1702, 0.0145, 0.6667, 0.4970),
    "mcq_up": (0.2273, 0.4393, 0.1127, 0.0984, 0.1127, 0.0096, 0.7793, 0.6667),
    "open_up": (0.1137, 0.2197, 0.2253, 0.1968, 0.2253, 0.0192, 0.5587, 0.3333),
    "only_mr": (0, 0, 0, 0.4460, 0.5105, 0.0435, 0, 0),
    "only_gpr": (0.2542, 0.4912, 0.2546, 0, 0, 0, 1, 0.7454),
}
EIGHT = [*DERIVED, "score"]
SCORES = {"personaskill_math": 50.0, "math": 49.5}  # any numbers: the paper's are unpublished


def blend_of(name):
    blend = load_blend(name)
    if name == "score":
        blend.scores |= SCORES
    return blend


def custom(by, **weights):
    return BlendConfig(name="custom", by=by, weights=weights, provenance="ours")


def weights_of(blend, counts=COUNTS, groups=GROUPS):
    return blend_weights(counts, groups, blend, "/p")


def refused(blend, counts=COUNTS, groups=GROUPS):
    with pytest.raises(UserError) as caught:
        weights_of(blend, counts, groups)
    return str(caught.value), caught.value.exit_code


def test_the_sources_state_the_sizes_of_table_1():
    stated = {name: source.paper_rows for name, source in SOURCES.items() if source.paper_rows}
    assert stated == COUNTS and sum(COUNTS.values()) == 588_645


@pytest.mark.parametrize("name", DERIVED)
def test_shares_on_the_sizes_of_table_1(name):
    shares = weights_of(load_blend(name))
    assert sum(shares.values()) == 1
    *expected, gpr, mcq = DERIVED[name]
    assert [float(shares.get(source, 0)) for source in TABLE_1] == pytest.approx(expected, abs=1e-4)
    assert float(group_shares(GROUPS, shares, "domain").get("gpr", 0)) == pytest.approx(gpr, abs=1e-4)
    assert float(group_shares(GROUPS, shares, "kind").get("mcq", 0)) == pytest.approx(mcq, abs=1e-4)


def test_the_shipped_blends():
    assert set(shipped_blends()) == {*EIGHT, "pool", "custom"}
    for name in shipped_blends():
        blend = load_blend(name)
        assert blend.name == name and blend.provenance == {"score": "reported"}.get(
            name, "ours" if name in ("pool", "custom") else "derived"
        )
    assert weights_of(load_blend("pool")) == weights_of(load_blend("nd"))
    with pytest.raises(ConfigError, match=r"no blend 'mcq-up'. Allowed: .*Did you mean 'mcq_up'\?"):
        load_blend("mcq-up")


def test_two_to_one_is_exact():
    for name, by, more in (("mr_up", "domain", "math"), ("gpr_up", "domain", "gpr"), ("mcq_up", "kind", "mcq")):
        assert group_shares(GROUPS, weights_of(load_blend(name)), by)[more] == Fraction(2, 3)
    assert group_shares(GROUPS, weights_of(load_blend("open_up")), "kind") == {
        "mcq": Fraction(1, 3),
        "open": Fraction(2, 3),
    }


def test_scores_are_weights_whatever_the_rows():
    published = {"mmlu_train": "34.78", "syn_qa": "45.65", "natural_reasoning": "44.82", "numina_math": "53.06"}
    scores = {name: Fraction(score) for name, score in published.items()}
    scores |= {name: Fraction(score) for name, score in SCORES.items()}
    shares = weights_of(blend_of("score"))
    assert shares == {name: score / sum(scores.values()) for name, score in scores.items()}
    assert shares == weights_of(blend_of("score"), dict.fromkeys(COUNTS, 7))


def test_a_score_that_nobody_published_is_asked_for():
    blend = load_blend("score")
    message, code = refused(blend)
    assert code == EXIT_USAGE and "unpublished for personaskill_math and math" in message
    assert "blend.scores.personaskill_math= and blend.scores.math= are missing" in message
    blend.scores["math"] = 50.0
    assert "blend.scores.personaskill_math= is missing" in refused(blend)[0]
    # A pool of the four that are published needs no more; nor does one score leave a source out unsaid.
    four = {name: rows for name, rows in COUNTS.items() if name not in SCORES}
    assert set(weights_of(load_blend("score"), four)) == set(four)
    message, code = refused(blend, four)
    assert code == EXIT_FAILED and "draws from math, which has no rows in /p" in message
    assert "blend.scores.math=null leaves it out" in message


def test_scores_beside_other_weights_are_refused():
    blend = load_blend("gpr_up")
    blend.scores = {"math": 50.0}
    assert "so blend.weights has no use" in refused(blend)[0]
    blend = blend_of("score")
    blend.by = "domain"
    assert refused(blend) == (
        "blend.scores weighs sources, so blend.by=domain has no use beside it. Give one of the two.",
        2,
    )


@pytest.mark.parametrize(
    ("blend", "expected"),
    [
        (custom("domain", gpr=3, math=1), {"gpr": Fraction(3, 4), "math": Fraction(1, 4)}),
        (custom("domain", gpr=0.1, math=0.2), {"gpr": Fraction(1, 3), "math": Fraction(2, 3)}),
        (custom("domain", gpr=5, math=0), {"gpr": Fraction(1)}),
        (custom("kind", open=1), {"math": Fraction(195_873, 295_873), "gpr": Fraction(100_000, 295_873)}),
        (custom("source", math=1, syn_qa=3), {"math": Fraction(1, 4), "gpr": Fraction(3, 4)}),
    ],
)
def test_weights_of_ones_own(blend, expected):
    assert group_shares(GROUPS, weights_of(blend), "domain") == expected


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=3), st.tuples(st.integers(0, 10**6), st.sampled_from(["gpr", "math"])), min_size=1
    ),
    st.fractions(0, 10).map(float),
    st.fractions(0, 10).map(float),
)
def test_a_domain_gets_its_weight_and_shares_it_by_rows(pool, gpr, math):
    counts = {source: rows for source, (rows, _) in pool.items()}
    groups = {source: (domain, "open") for source, (_, domain) in pool.items()}
    sizes = Counter()
    for rows, domain in pool.values():
        sizes[domain] += rows
    wanted = {domain: Fraction(str(weight)) for domain, weight in (("gpr", gpr), ("math", math)) if weight}
    if not wanted or any(not sizes[domain] for domain in wanted):
        with pytest.raises(UserError):
            weights_of(custom("domain", gpr=gpr, math=math), counts, groups)
        return
    shares = weights_of(custom("domain", gpr=gpr, math=math), counts, groups)
    assert shares == {
        source: wanted[domain] / sum(wanted.values()) * Fraction(rows, sizes[domain])
        for source, (rows, domain) in pool.items()
        if rows and domain in wanted
    }


@pytest.mark.parametrize(
    ("blend", "without", "says"),
    [
        ("mr_up", "math", "Blend mr_up draws from domain math, which has no rows in /p. Its domains are gpr."),
        ("only_gpr", "gpr", "Blend only_gpr draws from domain gpr, which has no rows in /p. Its domains are math."),
        ("mcq_up", "mcq", "Blend mcq_up draws from kind mcq, which has no rows in /p. Its kinds are open."),
        (custom("kind", mcq=1, math=1), "", "from kind math, which has no rows in /p. Its kinds are mcq, open."),
        (custom("domain", law=1), "", "draws from domain law, which has no rows in /p. Its domains are gpr, math."),
        (
            custom("source", syn=1),
            "",
            "Blend custom draws from syn, which has no rows in /p. Its sources are mmlu_train,",
        ),
        (custom("domain", gpr=-1, math=1), "", "Blend custom's weight of gpr is -1. Weights are finite"),
        (custom("domain", gpr=0), "", "weights are all 0"),
        ("nd", "gpr math", "/p has no rows to draw"),
        ("score", "gpr math", "/p has no rows to draw"),
        ("mr_up", "gpr math", "/p has no rows to draw"),
    ],
)
def test_what_the_pool_lacks_is_named(blend, without, says):
    counts = {name: 0 if set(without.split()) & set(GROUPS[name]) else rows for name, rows in COUNTS.items()}
    message, code = refused(load_blend(blend) if isinstance(blend, str) else blend, counts)
    assert says in message and code == EXIT_FAILED


@pytest.mark.parametrize(
    ("blend", "says"),
    [
        (custom("source", gpr=2, math=1), "names gpr, which is no source of /p (it has mmlu_train, syn_qa, "),
        (custom("source", mcq=2, open=1), "names mcq, open, which is no source"),
        (custom("source", mcq=2, open=1), "but a kind. Give blend.by=kind."),
        (
            custom("kind", gpr=2),
            "names gpr, which is no kind of /p (it has mcq, open) but a domain. Give blend.by=domain.",
        ),
        (custom("kind", math=2), "but a source or domain. Give blend.by=source or blend.by=domain."),
        (custom("domain", syn_qa=2), "of /p (it has gpr, math) but a source. Give blend.by=source."),
        (custom("licence", MIT=2), "blend.by=licence is not allowed. Allowed: source, domain, kind."),
    ],
)
def test_weights_that_name_something_else(blend, says):
    message, code = refused(blend)
    assert says in message and code == EXIT_USAGE


def test_a_source_of_two_groups():
    groups = GROUPS | {"syn_qa": ("gpr", MIXED)}
    message, _ = refused(load_blend("mcq_up"), groups=groups)
    assert "source syn_qa of /p holds rows of more than one" in message and "blend.by=source" in message
    # It is no hindrance where the blend does not look at it.
    assert weights_of(load_blend("mr_up"), groups=groups) == weights_of(load_blend("mr_up"))
    assert (
        "Blend mr_up weighs each domain" in refused(load_blend("mr_up"), groups=groups | {"math": (MIXED, "math")})[0]
    )


def test_the_groups_of_a_pools_rows(tmp_path):
    rows = [("a", "gpr", "mcq"), ("a", "gpr", "open"), ("b", "math", "math"), ("b", "gpr", "open"), ("c", "gpr", "mcq")]
    expected = {"a": ("gpr", MIXED), "b": (MIXED, "open"), "c": ("gpr", "mcq")}
    assert source_groups(rows) == source_groups(reversed(rows)) == expected
    assert source_groups([("b", "math", "math")]) == {"b": ("math", "math")}
    for name in expected:
        made = [PoolRow("0", name, *facts, "q", None, ["x"], []) for source, *facts in rows if source == name]
        with SourceWriter(tmp_path / rows_file(name)) as writer:
            writer.add(to_record_batch(made))
    write_manifest(tmp_path, {name: sum(row[0] == name for row in rows) for name in expected}, {})
    assert list(Pool.open(tmp_path).groups.items()) == list(expected.items())


def test_the_description_shows_what_the_run_will_see():
    shares = weights_of(load_blend("mcq_up"))
    lines = describe_blend(COUNTS, GROUPS, load_blend("mcq_up"), shares, 83_200).splitlines()
    assert lines[0] == "blend mcq_up (mcq 2, open 1; by kind; derived), 83,200 draws:"
    assert re.sub(" +", " ", lines[1]) == " mmlu_train 22.73% of draws from 99,842 rows: 0.189 passes"
    assert lines[-2:] == ["  by domain: gpr 77.93%, math 22.07%", "  by kind: mcq 66.67%, open 33.33%"]
    assert len({len(line.partition("of draws")[0]) for line in lines[1:7]}) == 1


@pytest.mark.parametrize("name", EIGHT)
def test_draws_over_a_run_of_the_paper(name):
    """650 steps of 128 prompts: shares, counts of every block, and no row twice in a pass."""
    shares = weights_of(blend_of(name))
    draws = BlendSampler(COUNTS, shares, seed=1).draw(83_200)
    found = Counter(draw.source for draw in draws)
    assert found.keys() == shares.keys()
    assert all(abs(found[source] / 83_200 - share) < 0.002 for source, share in shares.items())
    assert len(set(draws)) == len(draws)
    # Less than half of any source is drawn, so nothing repeats, but for the smallest where it weighs as much as others.
    assert {draw.source for draw in draws if draw.epoch} == ({"math"} if name == "score" else set())
    drawn = Counter()
    for block in range(0, len(draws), BLOCK):
        drawn.update(draw.source for draw in draws[block : block + BLOCK])
        assert all(abs(drawn[source] - share * (block + BLOCK)) < 1 for source, share in shares.items())


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(EIGHT), st.integers(0, 2**40), st.integers(0, 83_200), st.integers(1, 40))
def test_a_run_killed_at_any_draw_goes_on_identically(name, seed, stop, shrink):
    counts = {source: rows // (shrink * 20) + 1 for source, rows in COUNTS.items()}  # small: passes end within the run
    shares = weights_of(blend_of(name), counts)
    straight = BlendSampler(counts, shares, seed)
    straight.locate(max(0, stop - 1))
    straight.position = stop
    state = json.loads(json.dumps(straight.state_dict()))
    resumed = BlendSampler(counts, shares, seed)
    resumed.load_state_dict(state)
    assert resumed.draw(200) == straight.draw(200)
