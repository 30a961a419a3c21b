"""Units: what after a number is one, what multiplies it, and what makes another answer of it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reward_helpers import rows

from reward_server.scoring import extract, latex, math, symbolic
from reward_server.scoring.units import agree, split_unit

UNITS = [
    (r"8\text{ square feet}", "8", "ft^2"), (r"8\text{ sq. ft.}", "8", "ft^2"), (r"8\text{ feet squared}", "8", "ft^2"),
    (r"8\text{ cubic centimeters}", "8", "cm^3"), (r"60\text{ miles per hour}", "60", "mi / h"),
    (r"2\text{ dollars per pound}", "2", "$ / lb"), (r"2\text{ dollars a day}", "2", "$ / day"),
    ("25 cents", "25", "cent"),
    (r"\$2\text{ per pound}", "2", "$ / lb"), (r"9.8\text{ m/s}^2", "9.8", "m / s^2"),
    (r"5\text{ m s}^{-1}", "5", "m s^-1"),
    (r"5\text{ m s^-1}", "5", "m s^-1"), (r"240\text{ ways.}", "240", "way"), (r"5\text{ U.S. dollars}", "5", "u.s $"),
    (r"5\text{ p.m.}", "5", "p.m"), (r"5\text{ foot-pounds}", "5", "foot-pound"), (r"5\text{ times}", "5", "time"),
    (r"3\text{ two-digit numbers}", "3", "two-digit number"), (r"5\text{ μm}", "5", "μm"), (r"5\text{ Ω}", "5", "Ω"),
    (r"164 \pi \mbox{ square feet}", r"164 \pi", "ft^2"), (r"5\text{ }", "5", None), ("18 years old", "18", "year old"),
    # per cent
    (r"60\text{ per cent}", "60", "%"), ("60 per cent", "60", "%"), (r"60\text{ Per Cent}", "60", "%"),
    (r"60\text{ per}\text{ cent}", "60", "%"), (r"60\text{ per-cent}", "60", "%"), ("60 pct", "60", "%"),
    (r"5\text{ marbles per center}", "5", "marble / center"),
    # magnitudes
    ("5 million", "5000000", None), (r"2.5\text{ thousand}", "2500", None), (r"5\text{ dozen eggs}", "60", "egg"),
    (r"-3\text{ Hundred}", "-300", None), ("90 million yuan", "90000000", "yuan"),
    ("3 hundred thousand", "300000", None),
    (r"\frac13\text{ million}", "1000000/3", None), (r"\$43\text{ billion}", "43000000000", "$"),
    (r"-\$5\text{ million}", "-5000000", "$"), (r"1\frac12\text{ dozen}", "18", None),
]  # fmt: skip

NO_UNITS = [
    "or 6", "or 6 or 7", "is wrong", ", 3", "and 3", "or six", "(or 6)", "[6]", "!", "/6", "-6", "- six", "plus",
    "factorial", "pi", "x", "and a half", "one-third", "half-hours", "hundredths", "times pi", "maybe",
    "per thousand", "per mille", "million million million", "million^2", "e3", "/", "to infinity", "mod n", "; 6",
    "= 6",
    "but not 6", "OR SIX", "degrees below zero", "approximately", "\n, 6", "six", "+ six", "²²",
]  # fmt: skip


@pytest.mark.parametrize(("text", "value", "unit"), UNITS)
def test_units(text, value, unit):
    assert split_unit(latex.clean(text)) == (value, unit)
    assert math.check_gold(text, symbolic.good) is True
    assert math.compare(text, text) is True


@pytest.mark.parametrize("words", NO_UNITS)
@pytest.mark.parametrize("command", ["text", "mbox", "mathrm", "textrm", "textit"])
def test_words_that_make_another_answer_are_no_unit(words, command):
    for gold in ("5", r"5\text{ cm}"):
        for answer in (rf"5\{command}{{ {words}}}", rf"5 \{command}{{ cm}}\{command}{{ {words}}}"):
            assert math.compare(gold, answer, symbolic.same) is False


@pytest.mark.parametrize(
    "words", ["maybe", "million", "dozen", "squared", "minus one", "hundredths", "per cent", "is wrong"]
)
def test_nor_are_they_without_a_command(words):
    assert math.compare("5", f"5 {words}", symbolic.same) is False
    assert math.compare("5", f"{{5}} {words}.", symbolic.same) is False


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"5\text{ million}", "5", False), (r"5\text{ million}", "5 million", True), ("5 million", "5,000,000", True),
        (r"\$5\text{ million}", "5 million dollars", True), (r"\$5\text{ million}", "5", False),
        ("60", "5 dozen", True),
        (r"\pi\text{ million}", r"\pi", None), ("60", r"60\text{ percent increase}", False),
        (r"60\%", "60 per cent", True),
        ("60", "60 per cent", False), (r"8\text{ dollars per hour}", r"\$8\text{ per hour}", True),
        (r"8\text{ square feet}", r"8\text{ square miles}", False),
        (r"\mathbb{R}", r"\mathbb{R}\text{ except zero}", False),
        ("x", r"x\text{ is wrong}", False), (r"5:00\text{ p.m.}", r"5:00\text{ a.m.}", False),
    ],
)  # fmt: skip
def test_units_on_both_sides(gold, answer, right):
    good = math.check_gold(gold, symbolic.good)
    assert (math.compare(gold, answer, symbolic.same) if good else None) is right


def test_per_cent_stands_on_both_sides_in_any_unit():
    assert not agree("%", None) and not agree(None, "% / year") and agree("%", "%") and not agree("%", "% / year")


@given(
    st.one_of(
        st.text(max_size=12), st.lists(st.sampled_from(["cm", " ", "6", "or", ",", "^2", "/", "-", "("])).map("".join)
    )
)
@example("cm^2")
def test_no_text_after_a_number_says_another_number(words):
    if math.compare("5", rf"5\text{{{words}}}") is True:
        said = words.replace("^2", "").replace("²", "").replace("³", "")
        assert not any(sign.isdecimal() or sign in ",;:()[]!=+*<>&|" for sign in said), words


@given(
    st.decimals(0, 10**6, places=2).filter(bool), st.sampled_from([("hundred", 100), ("million", 10**6), ("dozen", 12)])
)
def test_magnitudes_multiply_whatever_the_number(number, magnitude):
    name, size = magnitude
    assert math.compare(str(number * size), rf"{number}\text{{ {name}s}}") is True
    assert math.compare(str(number), f"{number} {name}") is False


def test_real_golds_take_braces_a_full_stop_and_dollars():
    golds = {str(row["answer"]) for name in ("math500", "amc23", "agieval_math") for row in rows(name)}
    golds |= {extract.last_box(row["solution"]) for row in rows("math_train_sample")}
    golds |= {row["ground_truth"] for row in rows("deepmath_roll_transformed")}
    for gold in golds - {None}:
        if math.check_gold(gold) is not True:
            continue  # as every other test of a gold, without a worker
        for answer in (gold, f"{{{gold}}}", gold + ".", f"${gold}$", f"{{${gold}$.}}"):
            if "$" not in gold.replace("\\$", "") and not gold.endswith("."):
                assert math.compare(gold, answer) is not False, (gold, answer)
