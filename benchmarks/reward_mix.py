"""The mix of items that `benchmarks/reward_server.py` scores: 45 % multiple choice, 25 % short text, 30 % mathematics.

Made, not recorded: responses of 400 to 700 tokens, eight to a question, half of them right, some with a broken format
or cut off. The shapes of the mathematical ground truths have the shares that they have in MATH and DeepMath samples
(51 % integers, 11 % fractions, 21 % expressions, …). A right answer is mostly spelled as the ground truth is, a wrong
one is another value of the same shape.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from reward_server.verdicts import Item

SHARES = {"mcq": 0.45, "open": 0.25, "math": 0.30}
SHAPES = {
    "integer": 0.53, "fraction": 0.11, "decimal": 0.02, "polynomial": 0.10, "power": 0.04, "surd": 0.05, "pi": 0.04,
    "pair": 0.04, "word": 0.07,
}  # fmt: skip
GROUP = 8
RIGHT = 0.5
RESPELLED = 0.25
"""Share of the right answers that are spelled differently."""
TOKENS = (400, 700)
CHARS_PER_TOKEN = 4
"""Of English with formulas in it, under Qwen2.5's tokenizer: about."""

_SENTENCES = (
    "First we write down what is given and what is asked for. ",
    "Let $x$ be the unknown, so that $x^2 + {a}x - {b} = 0$ has to hold. ",
    "Substituting gives $\\frac{{{a}}}{{{b}}} \\cdot {c} = {d}$, which we can simplify further. ",
    "The first option would mean that the second statement is false, and that cannot be. ",
    "Wait, this needs a check: {a} times {b} is not {d}, so let us try again. ",
    "By the definition of the term, the supply falls while the demand stays where it was. ",
    "Therefore the sum $\\sum_{{k=1}}^{{{a}}} k$ has ${b}$ terms that matter here. ",
    "If we compare this with the case before, only the sign in front of $\\sqrt{{{a}}}$ differs. ",
    "So far we have {a} cases, and in each of them there are at most {b} ways to go on. ",
    "This rules out all but two of the answers, and the last step decides between them. ",
)
_WORDS = (
    "supply", "demand", "inflation", "photosynthesis", "osmosis", "equator", "parliament", "nitrogen", "enzyme",
    "gravity", "monopoly", "tariff", "plateau", "glacier", "sonata", "syllogism", "contract", "habeas corpus", "tort",
)  # fmt: skip
_ORDERS = ("even", "odd", "Monday", "Evelyn", "circle", "infinitely many", "no solution", "isosceles")


def items(seed: int, kinds: dict[str, float] | None = None) -> Iterator[Item]:
    """Items without end, group after group, all different; the same seed gives the same ones."""
    draw = random.Random(seed)
    shares = kinds or SHARES
    for group in itertools.count():
        (kind,) = draw.choices(list(shares), list(shares.values()))
        gold, options, answers = _QUESTIONS[kind](draw)
        for sample in range(GROUP):
            right = draw.random() < RIGHT
            answer = draw.choice(answers[right])
            response, finish = _response(draw, answer)
            # What the answer is worth stands in the id, for the check of the verdicts.
            ident = f"{group}.{sample}.{int(right)}"
            yield Item(ident, kind, response, (gold,), options, finish)


def batches(seed: int, size: int, count: int, kinds: dict[str, float] | None = None) -> list[list[Item]]:
    """`count` batches of `size` items."""
    stream = items(seed, kinds)
    return [list(itertools.islice(stream, size)) for _ in range(count)]


def hang(number: int) -> Item:
    """An item that passes the static bounds and keeps Math-Verify busy for minutes; another for every number.

    Its ground truth is a product too: where that is done, an answer that is left to do is wrong at once.
    """
    response = f"<think>Expand.</think> \\boxed{{\\prod_{{k=1}}^{{9000}} (x+k+{number})}}"
    return Item(f"hang {number}", "math", response, (r"\prod_{k=1}^{2} x",))


def _response(draw: random.Random, answer: str) -> tuple[str, str]:
    wanted = draw.randint(*TOKENS) * CHARS_PER_TOKEN
    parts: list[str] = []
    while sum(map(len, parts)) < wanted:
        numbers = {name: draw.randint(2, 99) for name in "abcd"}
        parts.append(draw.choice(_SENTENCES).format(**numbers))
    thought = "".join(parts)
    form = draw.random()
    if form < 0.03:
        return f"<think>{thought}", "length"
    if form < 0.08:
        return f"{thought} So the answer is \\boxed{{{answer}}}.", "stop"
    return f"<think>{thought}</think>\n\nThe answer is \\boxed{{{answer}}}.", "stop"


Question = tuple[str, "tuple[tuple[str, str], ...] | None", dict[bool, list[str]]]
"""Ground truth, options, and answers that are wrong (False) and right (True)."""


def _mcq(draw: random.Random) -> Question:
    labels = "ABCDEFGHIJ"[: draw.choice((4, 4, 4, 5, 10))]
    texts = {label: f"{draw.choice(_WORDS)} of the {draw.choice(_WORDS)} {label}{label}" for label in labels}
    gold, other = draw.sample(labels, 2)

    def ways(label: str) -> list[str]:
        return [label, label, label, f"{label}. {texts[label]}", f"\\text{{{label}}}", f"({label})", texts[label]]

    return gold, tuple(texts.items()), {True: ways(gold), False: ways(other)}


def _open(draw: random.Random) -> Question:
    one, other = draw.sample(_WORDS, 2)
    gold = f"{one} and {other}" if draw.random() < 0.4 else one
    right = [gold, gold.capitalize(), f"\\text{{{gold}}}", gold + "."]
    return gold, None, {True: right, False: [other, f"the {gold}s"]}


def _math(draw: random.Random) -> Question:
    (shape,) = draw.choices(list(SHAPES), list(SHAPES.values()))
    a, b, c = draw.randint(2, 999), draw.randint(2, 97), draw.choice((2, 3, 5, 7, 11, 13))
    gold, again, wrong = _SHAPED[shape](draw, a, b, c)
    right = [gold] * round(GROUP * (1 - RESPELLED)) + [again] * round(GROUP * RESPELLED)
    return gold, None, {True: right, False: [wrong, gold + "1" if shape == "integer" else wrong]}


def _word(draw: random.Random, a: int, b: int, c: int) -> tuple[str, str, str]:
    one, other = draw.sample(_ORDERS, 2)
    return f"\\text{{{one}}}", one, other


_SHAPED = {
    "integer": lambda draw, a, b, c: (str(a), f"{a}.0", str(a + b)),
    "fraction": lambda draw, a, b, c: (f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{c * a}}}{{{c * b}}}", f"{a + b}/{b + 1}"),
    "decimal": lambda draw, a, b, c: (f"{a}.{b}", f"{a}.{b}0", f"{a}.{b}1"),
    "polynomial": lambda draw, a, b, c: (f"{c}x^2+{b}x-{a}", f"-{a}+{b}x+{c}x^2", f"{c}x^2-{b}x+{a}"),
    "power": lambda draw, a, b, c: (f"{c}^{{n}}-{a}", f"-{a}+{c}^n", f"{c}^{{n-1}}-{a}"),
    "surd": lambda draw, a, b, c: (f"{b}\\sqrt{{{c}}}", f"\\sqrt{{{b * b * c}}}", f"{b + 1}\\sqrt{{{c}}}"),
    "pi": lambda draw, a, b, c: (f"\\frac{{{a}\\pi}}{{{b}}}", f"{a}\\pi/{b}", f"\\frac{{{a + 1}\\pi}}{{{b}}}"),
    "pair": lambda draw, a, b, c: (f"({a},{b})", f"\\left({a}, {b}\\right)", f"({b},{a + 100})"),
    "word": _word,
}  # fmt: skip
_QUESTIONS = {"mcq": _mcq, "open": _open, "math": _math}
