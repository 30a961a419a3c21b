"""What no answer gets by with: the question itself, what has no value, dropped signs, words that change the number."""

import pytest

from reward_server.local import LocalJudge
from reward_server.scoring import math, symbolic
from reward_server.verdicts import Item

MATRIX = r"1&2\\3&4\end{%smatrix}"

WRONG = [
    # the question, where its answer is asked for
    ("3x^2", r"\frac{d}{dx}x^3"), (r"\frac{x^3}{3}+C", r"\int x^2 dx + C"), ("e-1", r"\int_0^1 e^x dx"),
    (r"\frac{\sqrt\pi}{2}", r"\int_0^\infty e^{-x^2}dx"), (r"\frac{\pi^2}{6}", r"\sum_{n=1}^\infty\frac1{n^2}"),
    (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^n k"), ("7", r"\lim_{x\to 3}\frac{x^2+x-12}{x-3}"), ("2", r"17 \mod 5"),
    ("2", r"17 \bmod 5"), ("6", r"\gcd(12,18)"), ("5", r"\max(3,5)"), ("233910", r"345\div\frac{1}{678}"),
    # what has no value
    ("7", r"5 \mod 0"), ("7", r"\max(i,2)"), (r"\pi", r"\sum_{n=0}^\infty(-1)^n"), ("x", r"5 \mod 0"),
    (r"\frac{1}{1-x}", r"\sum_{n=0}^\infty x^n"),
    # a prefix in other letter case
    (r"5\text{ MW}", r"5\text{ mW}"), (r"5\text{ MPa}", r"5\text{ mPa}"), (r"5\text{ MeV}", r"5\text{ meV}"),
    (r"5\text{ Mg}", r"5\text{ mg}"), (r"5\text{ mM}", r"5\text{ mm}"), (r"5\text{ GB}", r"5\text{ Gb}"),
    # and, or
    (r"x<3 \text{ or } x>5", r"x<3 \text{ and } x>5"), (r"x>1 \text{ and } x<5", r"x>1 \text{ or } x<5"),
    # transposes, determinants, norms, roots
    ("A", "A^T"), ("A^T", "A"), ("AB^T", "(AB)^T"), ("x^2", "x^T x"), ("5", "5^T"), ("2^{T}", "2"),
    (r"\begin{pmatrix}" + MATRIX % "p", r"\begin{vmatrix}" + MATRIX % "v"),
    (r"\begin{pmatrix}" + MATRIX % "p", r"\begin{Vmatrix}" + MATRIX % "V"), (r"\frac{\sqrt2}{4}", "√2.25"),
]  # fmt: skip

RIGHT = [
    (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}"), (r"\int_0^x f(t)dt", r"\int_0^x f(t) dt"), ("2", r"\frac{6}{3}"),
    ("0.75", r"\frac{1.5}{2}"), ("210", r"\binom{10}{4}"), (r"5\text{ kg}", r"5\text{ KG}"), ("e^{T}", "e^T"),
    (r"5\text{ meters}", r"5\text{ METERS}"), (r"5\text{ men}", r"5\text{ Men}"), (r"5\text{ years}", r"5\text{ yrs}"),
    ("x<3, x>5", r"x<3 \text{ or } x>5"), (r"x<3 \text{ and } x>5", "x<3, x>5"),
    (r"x=3\text{ or }x=5", r"x=3\text{ and }x=5"), (r"\sqrt{2.25}", "√2.25"), (r"\sqrt{x+1}", "√(x+1)"),
    (r"\begin{pmatrix}" + MATRIX % "p", r"\begin{bmatrix}" + MATRIX % "b"),
    (r"\begin{vmatrix}" + MATRIX % "v", r"\begin{vmatrix}" + MATRIX % "v"),
]  # fmt: skip

OTHER_NUMBERS = """repeating recurring quarters sixteenths twelfths gross score mil bn mn tn googol tens quintillion
permil tenfold negative inverse unsure estimated cannot can't false incorrectly over under above binary
hex 或六 万 oder"""


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong(gold, answer):
    assert math.check_gold(gold, symbolic.good) is True
    assert math.compare(gold, answer, symbolic.same) is False


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_right(gold, answer):
    assert math.check_gold(gold, symbolic.good) is True
    assert math.compare(gold, answer, symbolic.same) is True


@pytest.mark.parametrize("word", OTHER_NUMBERS.split())
@pytest.mark.parametrize("form", ["5 {}", r"5\text{{ {}}}", r"5\text{{ {} cm}}"])
def test_words_that_make_another_number_or_doubt_it(word, form):
    assert math.compare("5", form.format(word), symbolic.same) is False


def test_an_answer_never_chooses_an_error():
    """It would take its zero out of the mean, and stop trainers that take no invalid reward."""
    answers = [r"5 \mod 0", r"\max(i,2)", r"\sum_{n=0}^\infty(-1)^n", r"\sum_{n=0}^\infty x^n", r"\min(i,1)"]
    items = [
        Item(f"{gold} {answer}", "math", rf"<think></think>\boxed{{{answer}}}", (gold,))
        for gold in ("7", r"\pi", r"\frac{1}{1-x}", r"\sum_{n=0}^\infty x^n")
        for answer in answers
    ]
    with LocalJudge() as judge:
        verdicts = judge.score(items)
    assert {verdict.status for verdict in verdicts} <= {"wrong", "correct"}
    assert [v.id for v in verdicts if v.status == "correct"] == [r"\sum_{n=0}^\infty x^n \sum_{n=0}^\infty x^n"]
