import dataclasses

import pytest
from one_of_each_kind import MATH, MCQ, OPEN

from conf.prep import FilterConfig
from data_prep import filters


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"gold_text": None}, None),
        ({"gold_text": " eight \n legs"}, None),
        ({"gold_text": "ten"}, "letter_and_text_disagree"),
        ({"gold_text": "Eight legs"}, "letter_and_text_disagree"),
        ({"gold_label": "D"}, "gold_not_among_options"),
        ({"gold_label": None}, "gold_not_among_options"),
        ({"options": None}, "gold_not_among_options"),
    ],
)
def test_mcq_filter(change, reason):
    assert filters.mcq(dataclasses.replace(MCQ, **change)) == reason


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (("one two three",), None),
        (("  one\ttwo\nthree ",), None),
        (("one two three four",), "answer_too_long"),
        (("one", "one two three four"), "answer_too_long"),
        ((), "answer_missing"),
        (("",), "answer_missing"),
    ],
)
def test_open_filter(answers, reason):
    assert filters.open_ended(dataclasses.replace(OPEN, answers=answers), 3) == reason


@pytest.mark.parametrize(("answers", "reason"), [(("2",), None), ((), "answer_missing"), ((" ",), "answer_missing")])
def test_math_filter(answers, reason):
    assert filters.math(dataclasses.replace(MATH, answers=answers)) == reason


@pytest.mark.parametrize(("levels", "reason"), [(None, None), ([2, 3], None), ([3], "level_not_wanted")])
def test_level_filter(levels, reason):
    assert filters.math_level(MATH, levels) == reason
    assert filters.math_level(OPEN, levels) is None


def test_the_filter_of_the_kind_is_applied():
    config = FilterConfig(max_answer_words=1, math_levels=[1])
    assert filters.reason_against(MCQ, config) is None
    assert filters.reason_against(OPEN, config) is None
    assert filters.reason_against(dataclasses.replace(OPEN, answers=("a b",)), config) == "answer_too_long"
    assert filters.reason_against(MATH, config) == "level_not_wanted"
