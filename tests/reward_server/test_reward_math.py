"""When two mathematical answers are the same: labelled cases, the two paths against each other, real ground truths."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_helpers import rows

from reward_server.scoring import bounds, exact, latex, math, structure, symbolic
from reward_server.scoring.units import split_unit

RIGHT = [
    (r"0.\overline{3}", r"\frac13"), (r"-\sqrt{3}", "−√3"), ("0.1\\bar{6}", "1/6"), ("9", "√81"),
    # integers, decimals, fractions
    ("5", "5"), ("5", "+5"), ("-5", "−5"), ("27", "27.0"), ("27.0", "27"), ("0.5", r"\frac12"), (".5", "0.50"),
    (r"\frac{14}{3}", "14/3"), (r"\frac{14}{3}", r"\dfrac{28}{6}"), (r"\frac 59", r"\tfrac{5}{9}"),
    (r"\frac9{19}", r"\frac{9}{19}"), (r"\frac43", "1 1/3"), (r"11 \frac{2}{3}", r"\frac{35}{3}"), ("4", "(4)"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"), ("0.25", r"\frac{1}{4}"), (r"\frac{1}{0.5}", "2"), ("2", r"\frac{4}{2}"),
    # thousands and scientific notation
    ("1000", "1,000"), ("1000", "1{,}000"), ("58,500", "58500"), (r"12,\!000,\!085", "12000085"), ("10000", r"10\,000"),
    ("300000", r"3 \times 10^{5}"), (".0000672", r"6.72\times10^{-5}"), ("0.00025", "2.5e-4"), ("1234567", "1,234,567"),
    # wrappers
    ("4", "$4$"), ("4", r"\(4\)"), (r"\boxed{4}", "4"), (r"\text{13}", "13"), (r"\text{(C)}", "C"), ("4", r"\text{4}"),
    (r"\text{Evelyn}", "Evelyn"), (r"\text{even}", "Even"), ("Yes", r"\text{yes}"), (r"\text{(E)}", r"\mathrm{E}"),
    # units on one side, or the same on both
    (r"145^\circ", "145"), ("90°", "90"), ("30", r"30^{\circ}"), (r"\$10", "10"), ("10", "$10"), (r"\$18.90", "18.9"),
    ("5 cm", "5"), ("5", r"5\text{ cm}"), ("5 cm", r"5\,\mathrm{cm}"), (r"864 \mbox{ inches}^2", "864"),
    (r"8\text{ meals}", "8 meals"), ("17 meters", r"17\text{ m}"), (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
    (r"864 \mbox{ inches}^2", r"864\text{ square inches}"), ("10%", r"10\%"), (r"10\%", "10.0 percent"), ("5 m", "5"),
    (r"8\sqrt{3} \text { square inches}", r"8\sqrt3"), ("9.8 m/s^2", r"9.8\ \text{m/s}^2"), (r"30^\circ", "30 degrees"),
    # names, equations, approximations
    ("5", "x = 5"), ("x=5", "5"), ("x=5", "x = 5.0"), ("y = 2x + 3", "3 + 2x"), (r"\sqrt{2}", r"\sqrt2 \approx 1.414"),
    (r"x \in [-2,7]", "[-2, 7]"), (r"x \in \{1, 2\}", "1, 2"), ("3", "f(2) = 3"), ("30", r"\angle ABC = 30^\circ"),
    ("x - 3z = 0", "2x - 6z = 0"), (r"\frac{x^2}{16} - \frac{y^2}{9} = 1", "9x^2 - 16y^2 = 144"), ("x > 3", "3 < x"),
    ("y = 2x + 3", "2x - y + 3 = 0"), (r"-2 \le x \le 7", r"7 \geq x \geq -2"), ("5", "x = 10/2 = 5"),
    # structures
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"), (r"\{1, 2\}", r"\{2, 1\}"), ("-2,1", "-2, 1"),
    ("1, 2", "1 and 2"), (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1+\sqrt5, 1-\sqrt5\}"), ("(100,200)", "(100, 200)"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"), (r"1+\sqrt{19}, 1-\sqrt{19}", r"1 \pm \sqrt{19}"),
    (r"(5,\infty)", r"\left(5,\infty\right)"), (r"(-\infty,0)\cup(1,2)", r"(1,2) \cup (-\infty, 0)"), ("3:4", "3 : 4"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{bmatrix}-\frac13\\\frac23\end{bmatrix}"),
    (r"x = 1, y = 2", "x=1, y=2"), ("1, 2, \\ldots, n", "1, 2, …, n"), (r"\emptyset", r"\varnothing"),
    # expressions
    (r"2\sqrt{5}", r"\sqrt{20}"), (r"11\sqrt{5}+11", r"11(1+\sqrt5)"), ("(a+5)(b+2)", "ab+2a+5b+10"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt3}"), ("7x(x-1)(x-2)", "7x^3-21x^2+14x"), ("1+2i", "2i+1"),
    (r"18+2\pi", r"2(\pi+9)"), (r"\frac{20000}{\pi}", r"20000/\pi"), ("1024", "2^{10}"), ("4", r"\sqrt{16}"),
    (r"\cos 58^\circ", r"\sin 32^\circ"), (r"2 \tan x", r"\frac{2\sin x}{\cos x}"), ("120", "5!"), ("xy - 1", "yx - 1"),
    (r"\frac{11+9a}{20}", r"0.55 + 0.45a"), (r"1 - \frac{1}{\mathrm{e}}", r"1-e^{-1}"), ("3^n - 1", "-1 + 3^n"),
    ("52_8", "52_{8}"), ("2", r"\log_2 4"), ("-1", r"e^{i\pi}"), (r"\frac{1}{2}", r"\sin 30^\circ"), (r"\pi", "π"),
    ("(r+5)^2", "r^2+10r+25"), (r"e^{\frac14}", r"\sqrt[4]{e}"), (r"\binom{99}{49}", r"\dbinom{99}{50}"),
    # exponents without braces
    ("0.005", r"5\times 10^-3"), ("0.001", "10^-3"), ("0.001", "10^−3"), ("1/8", "2^-3"), (r"\frac{1}{e}", "e^-1"),
    (r"\frac1x", "x^-1"), ("e^{-x}", "e^-x"), ("e^e", "e^{e}"), ("2^e", "2^{e}"), ("x^e", "x^{e}"),
    (r"\pi^e", r"\pi^{e}"), (r"\sqrt{x}", r"x^\frac12"), (r"e^{-\pi}", r"e^-\pi"), (r"\frac{1}{2x}", "x^-1/2"),
    # Unicode's exponents, indices and fractions
    ("x^4", "x⁴"), ("100000", "10⁵"), ("0.001", "10⁻³"), ("10^{23}", "10²³"), ("3x^2y", "3x²y"), ("x^{n+1}", "xⁿ⁺¹"),
    ("a_1", "a₁"), ("a_{n+1}", "aₙ₊₁"), ("52_8", "52₈"), ("3", r"\log₂8"), ("1/2", "½"), ("-3.5", "-3½"),
    (r"\sqrt2", "2^½"), ("5 cm^2", r"5\text{ cm²}"), (r"5\text{ m s}^{-1}", "5\\text{ m s⁻¹}"), ("3/4", "3⁄4"),
    # names of entries; braces, dollars and a full stop around the whole
    ("(1,2)", "(x,y)=(1,2)"), ("(x,y)=(1,2)", "(1,2)"), ("(1,2,3)", "(a, b, c) = (1, 2, 3)"),
    ("(x,y)=(1,2)", "(x, y)=(1,2)"), (r"(3,\pi)", r"(r,\theta)=(3,\pi)"), ("(1,2),(3,4)", "(x,y)=(1,2), (3,4)"),
    ("(1,2)", r"\left(x_1, x_2\right) = \left(1, 2\right)"), ("x^2", "{x^2}"), (r"\frac12", r"{\frac{1}{2}}"),
    ("(1,2)", "{(1,2)}"), ("5", "{{5}}"), ("5", r"{5}\text{ cm}"), (r"\{1,2\}", r"{\{2,1\}}"), ("1, 2", "{1,2}"),
    (r"{8 \choose 2}", r"\binom82"),
    (r"\frac12", r"\frac{1}{2}."), ("14.8", "14.8."), ("(2,3)", "(2,3)."), ("5", "$5$."), (r"2\sqrt{3}", r"2\sqrt{3}."),
    ("5", "$5.$"), ("0.1", ".1."), (r"\$2.50", r"$\$2.50$"), ("2.5", r"$\$2.50$"), ("1, 2, \\ldots", "1, 2, ..."),
]  # fmt: skip

WRONG = [
    # the false accepts of the library underneath
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}"), ("1/2004!", "1/2006!"), ("1/2^99", "1/2^98"),
    (r"\frac{x}{2^{99}}", r"\frac{x}{2^{98}}"), (r"1 - \frac{1}{\mathrm{e}}", r"1 + \frac{1}{\mathrm{e}}"),
    ("1, 2, …, n", "1, 3, 5, …, 2n−1"), ("listen", "silent"), (r"\text{listen}", r"\text{silent}"),
    ("Supply and demand", "demand and supply"), (r"\{1, 2\}", "(1, 2)"), ("(1, 2)", r"\{1, 2\}"), ("5 cm", "5 m"),
    ("10%", "10"), ("10", r"10\%"), (r"10\%", "0.1"), ("0.1", "10%"), ("2", "1+1"), ("12", r"3\cdot 4"), ("A", "a"),
    # unevaluated
    ("6", "2(3)"), ("6", "(2)(3)"), ("2", "5-3"), ("5", r"1\cdot 5"), ("2", r"\frac{2+2}{2}"), ("3", r"\sqrt{4}+1"),
    ("12", r"3 \times 4"), ("12", "3*4"), ("6", r"\sum_{i=1}^{3} i"), ("3", r"\frac{6\cdot 2}{4}"), ("5", "2+3 = 5"),
    ("(2,3)", "(1+1,3)"), ("2", r"\sqrt{3+1}"), (r"\frac{5}{6}", r"\frac12+\frac13"), ("7", "3 4"), ("5", "10 - 5"),
    # no tolerance
    ("0.333", "1/3"), ("1/3", "0.3333333"), (r"\pi", "3.14159265358979"), (r"\sqrt{2}", "1.41421356237309504880168872"),
    (r"\sqrt{2}", r"\sqrt{2} + 10^{-40}"), ("2", r"\sqrt{4.0000000000000001}"), ("0.1", "0.1000000001"),
    ("1.33", "4/3"),
    # order and completeness
    ("1, 2", "2, 1"), ("(1,2)", "(2,1)"), ("1, 2", "1"), ("1331 and 1728", "1728"), (r"\{1,2\}", r"\{1,2,3\}"),
    (r"\{1,2\}", "1"), ("1, 2", r"\{1, 2\}"), ("[1,2]", "(1,2)"), ("[1,2)", "(1,2]"), ("(1,2,3)", "(1,2)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"), ("1,234", "1, 234"), ("(1,000)", "1000"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"), ("3:4", "4:3"), ("3:4", "3/4"),
    # names and units
    ("x=5", "y=5"), ("x", "y"), ("5", "x"), ("5x", "5"), ("5m", "5"), (r"\$10", "€10"), ("30°", r"\frac{\pi}{6}"),
    ("5 cm^2", "5 cm^3"), ("5 m", "500 cm"), ("52_8", "52"), ("52_8", "42"), ("10_2", "10_3"), ("xy = 1", "1"),
    (r"\cos 58^\circ", r"\cos 58"), ("x = 1, y = 2", "x = 2, y = 1"), ("2516_8", "2516"),
    ("1.4", r"1.4 \approx \sqrt 2 = 5"),
    ("0", r"0.\overline{3}"), ("5", r"\frac{5}{0}"), ("0", r"\sqrt20"), ("5", "5\\cdot"), ("5", r"5\checkmark"),
    # other values
    ("5", "6"), ("5", "-5"), (r"\frac12", "2"), (r"2\sqrt5", r"5\sqrt2"), ("x^2", "x^3"), ("x>3", "x<3"),
    ("x>3", r"x\geq 3"), ("27", "2 7"), ("even", "odd"), ("Evelyn", "Navin"), ("5", "five"), ("True", "False"),
    (r"\infty", r"-\infty"), ("O(n)", "o(n)"), ("N", "n"), (r"\theta", r"\Theta"), ("A+1", "a+1"), ("1+2i", "1-2i"),
    ("2x+3", "2x+4"),
    # no answers at all
    ("5", "the answer is 5"), ("5", "5 or maybe 6"), ("5", "5 is right"), ("4", r"\frac{4"), ("4", "}4{"),
    ("4", "((4)"), ("4", ""), ("4", "$"), ("4", "4,"), ("4", "=4"), ("1", r"1+\cdots"), ("4", "4'"),
    ("1", r"\text{if } 1"), ("4", "x = "),
    # exponents that may go on are no exponents of one sign; other values
    ("e^{-2}x", "e^-2x"), ("(e^{-x})^2", "e^-x^2"), ("x^{-1}", "x^-12"), ("x^{-1}2y", "x^-12y"), ("1/8", "2^-4"),
    ("e^{-x}_1", "e^-x_1"), ("x^2", "x³"), ("x^{23}", "x^2 3"), ("1/2", "¼"), ("a_1", "a₂"), ("x_1", "x¹"),
    ("(x,y)=(1,2)", "(a,b)=(1,2)"), ("(x,y)=(1,2)", "(2,1)"), ("(1,2)", "(x,y)=(1,2,3)"), ("(1,2)", "(2,x)=(1,2)"),
    ("(1,2)", "{1,2}"), ("5", "5.."), ("5", r"5\."), ("5", "{5"), ("5", "{}5"), ("5", r"$5\$"),
    (r"\{1,2\}", r"{(1,2)}"),
]  # fmt: skip


def both(gold, answer):
    """The verdict of a worker, after checking that the fast path says the same or nothing."""
    assert math.check_gold(gold, symbolic.good), f"{gold} is no ground truth"
    slow = math.compare(gold, answer, symbolic.same)
    assert math.compare(gold, answer) in (None, slow)
    return slow


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_right(gold, answer):
    assert both(gold, answer) is True


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_wrong(gold, answer):
    assert both(gold, answer) is False


ALPHABET = r"""
0 1 2 5 10 . , - + / * ^ _ { } ( ) [ ] \{ \} \frac \sqrt \pi x y i e = < \pm \approx \text{cm} \% % ^\circ : ! '
\cdot \times \ldots \cup \in \begin{pmatrix} \end{pmatrix} & \\ and or apples $ \$ \boxed{ \left( \right)
^- ^e ² ⁻¹ ₂ ½ million dozen \text{million} \text{percent} \text{or6} (x,y)= \mod \max \sum_{n=0}^\infty x^n \gcd ^T
"""


@given(st.lists(st.sampled_from([*ALPHABET.split(), " "]), max_size=12).map("".join))
def test_fast_path_and_worker_agree_and_never_raise(text):
    good = math.check_gold(text)
    if good is not None:
        assert math.check_gold(text, symbolic.good) is good
    if good:
        assert math.compare(text, text) is True
    fast = math.compare("5", text)
    if fast is not None:
        assert math.compare("5", text, symbolic.same) is fast


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_no_text_raises(text):
    math.check_gold(text)
    math.compare(text, text)
    math.compare("5", text)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_fractions_compare_exactly(one, other):
    def written(value):
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"

    assert exact.exact(written(one)) == one
    assert math.compare(written(one), f"{other.numerator}/{other.denominator}") is (one == other)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_decimals_compare_exactly(value):
    assert math.compare(str(value), f"{value}00") is True
    assert math.compare(str(value), f"{value}01") is False


@pytest.mark.parametrize(
    "text",
    [
        r"\frac{5^{5^{5^{5^{5}}}}-5}{16}", "5^5^5^5^5", "10^{10^{10}}", r"\frac{10^{10^{10}}}{3}", "100000!",
        "((9!)!)!", "2^{99999}", r"\binom{1000000}{500000}", "9" * 500 + "x", "x+" * 1500, "(" * 60 + "x" + ")" * 60,
        "5^{5}^{5}^{5}", "x^{(y^{(z^{w})})}",
    ],
)  # fmt: skip
def test_answers_built_to_be_slow_are_refused(text):
    assert bounds.refusal(latex.clean(text))
    assert math.compare("5", text) is False


@pytest.mark.parametrize(
    "text", ["x^2y^2z^2", "1999^{1999}", "2^{2^3}", "e^{x^2}", "2004!", r"\dbinom{99}{49}", "x^{10}+x^9"]
)
def test_ordinary_expressions_are_not_refused(text):
    assert bounds.refusal(latex.clean(text)) is None


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text", ["9" * 1_000_000, "{" * 1_000_000, ",".join("1" * 500_000), r"\frac" * 200_000, "1," * 900]
)
def test_megabytes_of_box_are_cheap(text):
    assert math.compare("5", text) is False


def test_structure_names_its_parts():
    assert structure.parse("x = 5") == structure.Named("x", structure.Leaf("5"), "x = 5")
    assert structure.parse(r"5\text{ cm}") == structure.Leaf("5", "cm")
    assert structure.parse("[1, 2)").kind == "[)"
    assert structure.parse(r"\{1") is None


@pytest.mark.parametrize(
    "gold", ["", " ", r"\frac{5}{0}", r"\frac{1", "1+", "f(x", "the value 5 of x", "$", "4,", "10^{10^{10}}"]
)
def test_bad_golds(gold):
    assert math.check_gold(gold, symbolic.good) is False


@pytest.mark.parametrize(("name", "key"), [("math500", "answer"), ("amc23", "answer"), ("agieval_math", "answer")])
def test_real_golds_are_good_and_equal_themselves(name, key):
    golds = sorted({str(row[key]) for row in rows(name)})
    for gold in golds:
        assert math.check_gold(gold, symbolic.good) is True, gold
        assert math.compare(gold, gold, symbolic.same) is True, gold


def test_different_real_golds_are_different():
    golds = sorted({str(row["answer"]) for row in rows("math500")})
    unlike = random.Random(0).sample(list(itertools.permutations(golds, 2)), 1500)
    accepted = [pair for pair in unlike if math.compare(*pair, symbolic.same)]
    # 30 is 30°: a unit on one side only is accepted, and nothing else is the same here.
    assert all(split_unit(latex.clean(one))[0] == split_unit(latex.clean(other))[0] for one, other in accepted)
