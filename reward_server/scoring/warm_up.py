"""What a worker's parser has seen before the first answer: ANTLR builds its tables at the first sight of each shape.

An unseen shape costs 10 to 150 ms once, a seen one 1 to 4 ms (benchmarks/reward_server.py). The nursery pays, and
every worker forked from it has the tables.
"""

from __future__ import annotations

from reward_server.scoring import math, symbolic

SHAPES = (
    r"\frac{\pi}{2}", r"2\sqrt{3}", r"x^2+1", r"\frac{2\pi}{4}", r"\frac{1+\sqrt{5}}{2}", r"-\frac{3}{4}x+2",
    r"x^{n+1}-2x^{n}", r"\sin(2x)+\cos x", r"\ln 2", r"\log_2 8", r"e^{-x}", r"e^{2\pi i/3}", r"3+4i", r"(x-1)(x+2)",
    r"\sqrt[3]{2}", r"\frac{x+1}{x-1}", r"\binom{n}{2}", r"n!", r"\frac{n(n+1)}{2}", r"2^{10}", r"2^{n}-1", r"10^{-3}",
    r"|x-1|", r"a^2+b^2", r"x_1+x_2", r"\frac{\sqrt{3}}{3}", r"4\pi r^2", r"\frac{4}{3}\pi", r"\tan^{-1}x",
    r"\arctan\frac{1}{2}", r"\sqrt{x^2+y^2}", r"\frac{1}{2}+\frac{\sqrt{3}}{2}i", r"f(x)", r"2xy", r"3\cdot 2^n",
    r"\frac{a}{b}", r"1-\frac{1}{e}", r"\infty", r"x=5", r"x^2+y^2=1", r"y=3x-7", r"x<1", r"x\geq 2", r"1<x<2",
    r"\frac{dy}{dx}", r"\sum_{k=1}^{n} k", r"\int_0^1 x dx", r"\lfloor x \rfloor", r"\overline{z}", r"\cot\theta",
    r"\alpha+\beta", r"6-2\sqrt{5}", r"\sqrt{2}+\sqrt{3}", r"\frac{3\sqrt{2}}{4}", r"x^3-3x+1", r"2(x+1)^2-3",
    r"a(b+c)", r"\sqrt{\frac{2}{3}}", r"120^\circ", r"0.5x", r"1.5\times 10^{8}", r"\frac{x^2}{4}+\frac{y^2}{9}=1",
    r"\frac{13}{5}a^2b", r"\cos(3x)-1", r"(a+b)^2", r"\frac{1}{x}+\frac{1}{y}", r"-2\sqrt{3}+1", r"\pi/2", r"3/x",
)  # fmt: skip
"""Leaves of typical competition answers."""

PAIRS = (
    (r"2\sqrt{3}", r"\sqrt{12}"), ("x^2+1", "1+x^2"), ("x<1", "1>x"), (r"\cos 2x", r"1-2\sin^2 x"),
    (r"3+2\sqrt{2}", r"(1+\sqrt{2})^2"), ("(x-2)(x-3)", "x^2-5x+6"), (r"\sqrt{2}", r"\sqrt{3}"),
)  # fmt: skip
"""Comparisons that load what SymPy and Math-Verify import late."""


def warm_up() -> None:
    """Parse every shape and compare every pair, once."""
    for shape in SHAPES:
        symbolic.good(shape)
    for gold, answer in PAIRS:
        math.compare(gold, answer, symbolic.same)
