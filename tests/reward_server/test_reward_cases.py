"""The labelled set: written from the rules alone, by somebody who had not seen the code."""

import pytest

from benchmarks import reward_accuracy
from reward_server.local import LocalJudge
from reward_server.scoring import intervals, structure


@pytest.fixture(scope="module")
def judged():
    cases = [case for part in reward_accuracy.PARTS for case in reward_accuracy.load(part)]
    with LocalJudge() as judge:
        return list(zip(cases, judge.score(list(map(reward_accuracy.item, cases))), strict=True))


def test_the_set_is_large_and_has_enough_negatives(judged):
    assert len(judged) >= 400 and len({case["id"] for case, _ in judged}) == len(judged)
    negatives = [case for case, _ in judged if case["status"] != "correct"]
    assert len(negatives) >= 0.4 * len(judged)
    for name in reward_accuracy.FALSE_ACCEPTS:
        assert sum(case["class"] == name and not case["accuracy"] for case, _ in judged) >= 4, name


def test_nearly_all_are_judged_as_labelled(judged):
    missed = [(case["id"], case["why"]) for case, verdict in judged if not reward_accuracy.agrees(case, verdict)]
    assert len(missed) <= 0.01 * len(judged), missed


def test_no_answer_of_the_listed_classes_is_falsely_accepted(judged):
    listed = [pair for pair in judged if pair[0]["class"].rstrip("?") in reward_accuracy.FALSE_ACCEPTS]
    assert len(listed) >= 80
    assert not [case["id"] for case, verdict in listed if verdict.accuracy and not case["accuracy"]]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"[0,1]\cup[1,2]", "[0,2]", True), (r"[0,1)\cup(1,2]", "[0,2]", False), (r"[0,1)\cup[1,2]", "[0,2]", True),
        (r"(-\infty,0)\cup(0,\infty)", r"(-\infty,\infty)", False), (r"(0,1)\cup\{1\}", "(0,1]", True),
        (r"(2,3)\cup(0,1)", r"(0,1)\cup(2,3)", True), (r"[0,2]\cup[1,3]", "[0,3]", True),
        (r"(0,\frac12]\cup[0.5,1)", "(0,1)", True), (r"(1,0)\cup(2,3)", "(2,3)", None),
        (r"(a,b)\cup(2,3)", "(2,3)", None),
    ],
)  # fmt: skip
def test_unions_of_intervals(one, other, same):
    first, second = (intervals.union(structure.parse(text)) for text in (one, other))
    assert (None if first is None or second is None else first == second) == same
