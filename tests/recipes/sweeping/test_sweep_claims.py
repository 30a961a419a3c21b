"""Arms, the paper's directions and what decides whether they hold."""

from __future__ import annotations

import pytest
from eval_samples import sample as answer

from conf.ablations import BLENDS
from crossthink.errors import ConfigError
from recipes.reporting.over_seeds import BASE, FAILS, HOLDS, UNTOLD, claims_table, directions
from recipes.reporting.paper import published_row
from recipes.sweeping.arms import SINGLES, STUDY_ARMS, chosen_arms
from recipes.sweeping.claims import CLAIMS, RULE, Claim, judge, published_difference, verdict
from recipes.sweeping.results import over_seeds, result_of


def sample(name, number, right, *, tokens=10, domain="gpr", run=0, status=None):
    valid = status != "bad_gold"
    ident = f"q{number}"
    return answer(number, right if valid else None, name, run, tokens, status, id=ident, domain=domain)


def result(rights, *, tokens=10, name="syn_qa", domain="gpr"):
    return result_of(sample(name, i, right, tokens=tokens, domain=domain) for i, right in enumerate(rights))


def test_the_study_has_eleven_arms():
    names = [arm.name for arm in STUDY_ARMS]
    assert len(names) == len(set(names)) == 11
    assert names[:8] == list(BLENDS)
    assert {arm.name: (arm.table, arm.blend, arm.counterpart) for arm in STUDY_ARMS[8:]} == {
        "open": (5, "nd", "nd"), "short": (6, "only_gpr", "only_gpr"), "filtered": (7, "gpr_up", "gpr_up"),
    }  # fmt: skip
    assert len(SINGLES) == 6


def test_arms_are_chosen_in_their_order():
    assert [arm.name for arm in chosen_arms("study", ["short", "nd"])] == ["nd", "short"]
    assert len(chosen_arms("ablation_blends", [])) == 8
    with pytest.raises(ConfigError, match="'onlygpr' is no arm.*Did you mean 'only_gpr'"):
        chosen_arms("ablation_blends", ["onlygpr"])
    with pytest.raises(ConfigError, match="recipe=null is no sweep. Allowed: ablation_blends, study"):
        chosen_arms(None, [])


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_every_comparison_has_published_rows(claim):
    assert published_difference(claim) != 0
    assert published_row(claim.table, claim.one) and published_row(claim.table, claim.other)
    assert {claim.one, claim.other} <= {BASE, *(arm.name for arm in STUDY_ARMS)}


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (Claim(4, "gpr_up", "nd"), 0.0246),
        (Claim(5, "open", "nd"), 0.0121),
        (Claim(6, "short", "only_gpr"), 0.0120),
        (Claim(7, "filtered", "gpr_up"), 0.0215),
        (Claim(4, "gpr_up", "only_mr", "math"), -0.03),
        (Claim(9, "gpr_up", "only_mr", "tokens_gpr"), -254),
    ],
)
def test_published_differences(claim, expected):
    assert published_difference(claim) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("published", "interval", "expected"),
    [
        (0.01, (0.001, 0.3), HOLDS),
        (0.01, (-0.3, -0.001), FAILS),
        (-0.01, (-0.3, -0.001), HOLDS),
        (-0.01, (0.001, 0.3), FAILS),
        (0.01, (-0.001, 0.3), UNTOLD),
        (0.01, (0.0, 0.3), UNTOLD),
        (0.01, (0.0, 0.0), UNTOLD),
        (0.01, None, UNTOLD),
    ],
)
def test_verdicts(published, interval, expected):
    assert verdict(published, interval) == expected


def test_runs_of_one_question_are_averaged_and_invalid_ones_left_out():
    samples = [
        sample("a", 0, True), sample("a", 0, False, run=1), sample("a", 1, True),
        sample("a", 2, True, status="bad_gold"),
        sample("b", 0, False, domain="math"), sample("agieval_math", 0, True, domain="math"),
    ]  # fmt: skip
    found = result_of(samples)
    assert found.accuracy == {"a": {"q0": 0.5, "q1": 1.0}, "b": {"q0": 0.0}}
    assert (found.value("gpr"), found.value("math"), found.value("mean")) == (0.75, 0.0, 0.375)
    assert found.tokens_right == {"a": 10.0} and found.tokens("math") is None
    assert result([]).value("mean") is None


def test_mean_over_seeds_with_its_interval():
    found = over_seeds({0: result([1, 0]), 1: result([1, 1])}, "mean")
    assert (found["mean"], found["n"], found["by_seed"]) == (0.75, 2, {"0": 0.5, "1": 1.0})
    assert found["interval"][0] < 0.75 < found["interval"][1]
    assert over_seeds({0: result([1])}, "syn_qa") == {"mean": 1.0, "interval": None, "n": 1, "by_seed": {"0": 1.0}}


def test_judged_by_seeds_and_questions_that_both_have():
    right, wrong = [1] * 30 + [0] * 2, [0] * 30 + [1] * 2
    results = {
        "gpr_up": {0: result(right), 1: result(right), 2: result(right)},
        "nd": {0: result(wrong), 1: result(wrong)},
    }
    (one,) = judge(results)
    assert (one["one"], one["other"], one["table"]) == ("gpr_up", "nd", 4)
    assert one["seeds"] == [0, 1] and one["questions"] == 32
    assert one["difference"] == pytest.approx(28 / 32)
    assert one["verdict"] == HOLDS
    (turned,) = judge({"gpr_up": results["nd"], "nd": results["gpr_up"]})
    assert turned["verdict"] == FAILS


def test_lengths_are_judged_over_seeds():
    def arm(*lengths):
        return {seed: result([1], tokens=tokens) for seed, tokens in enumerate(lengths)}

    found = {one["measure"]: one for one in judge({"gpr_up": arm(10, 11, 10), "only_mr": arm(20, 20, 20)})}
    assert found["tokens_gpr"]["difference"] == pytest.approx(-29 / 3)
    assert found["tokens_gpr"]["verdict"] == HOLDS
    assert found["tokens_math"]["difference"] is None and found["tokens_math"]["verdict"] == UNTOLD
    assert claims_table([found["tokens_gpr"]], RULE).rows[0].cells[-1].text == HOLDS
    assert directions([found["tokens_gpr"], found["tokens_math"]]) == []
