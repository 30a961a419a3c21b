"""The demo's six tasks: a question, its right procedure and one systematic slip.

Every task states the steps that lead to the right answer and those of one plausible mistake (a carry forgotten, the
smaller for the larger, the neighbouring option). The warm start shows a model both, so that reinforcement learning has
a procedure to prefer, as in a pretrained model; the sources themselves carry only question and right answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

LABELS = "ABCD"
NAMES = ("Ana", "Ben", "Cem", "Dia", "Eli", "Fay", "Gus", "Hal", "Ida", "Jon", "Kai", "Lea", "Max", "Nia", "Ole", "Pia")
THINGS = ("pens", "cups", "eggs", "nuts", "keys", "hats", "maps", "figs")


@dataclass(frozen=True)
class Problem:
    """One generated question. `options` are texts in label order, or None; `answer` is what belongs in the box."""

    question: str
    answer: str
    steps: str
    slip_answer: str
    slip_steps: str
    options: tuple[str, ...] | None = None


def add(rng: random.Random) -> Problem:
    """Two-digit addition whose units carry; the slip forgets the carry."""
    a_tens = rng.randint(1, 7)
    b_tens = rng.randint(1, 8 - a_tens)
    a_units = rng.randint(1, 9)
    b_units = rng.randint(10 - a_units, 9)
    units = a_units + b_units
    tens = a_tens + b_tens
    head = f"{a_units}+{b_units}={units}, "
    return Problem(
        question=f"{a_tens}{a_units} + {b_tens}{b_units} = ?",
        answer=f"{tens + 1}{units - 10}",
        steps=f"{head}{a_tens}+{b_tens}+1={tens + 1}",
        slip_answer=f"{tens}{units - 10}",
        slip_steps=f"{head}{a_tens}+{b_tens}={tens}",
    )


def take_away(rng: random.Random) -> Problem:
    """A subtraction in words that borrows; the slip forgets the borrow."""
    tens, units = rng.randint(2, 9), rng.randint(0, 8)
    less = rng.randint(units + 1, 9)
    rest = units + 10 - less
    head = f"{units + 10}-{less}={rest}, "
    return Problem(
        question=f"{rng.choice(NAMES)} has {tens}{units} {rng.choice(THINGS)} and loses {less}. How many are left?",
        answer=f"{tens - 1}{rest}",
        steps=f"{head}{tens}-1={tens - 1}",
        slip_answer=f"{tens}{rest}",
        slip_steps=f"{head}{tens}",
    )


def largest(rng: random.Random) -> Problem:
    """The larger of two numbers; the slip takes the smaller."""
    low, high = sorted(rng.sample(range(10, 100), 2))
    pair = [low, high]
    rng.shuffle(pair)
    return Problem(
        question=rf"Find $\max({pair[0]}, {pair[1]})$.",
        answer=str(high),
        steps=f"{high}>{low}",
        slip_answer=str(low),
        slip_steps=f"{low}<{high}",
    )


def older(rng: random.Random) -> Problem:
    """A comparison with a name as its answer; the slip names the younger."""
    first, second = rng.sample(NAMES, 2)
    low, high = sorted(rng.sample(range(1, 10), 2))
    flip = rng.random() < 0.5
    elder, younger = (second, first) if flip else (first, second)
    ages = (low, high) if flip else (high, low)
    return Problem(
        question=f"Of {first}, {ages[0]}, and {second}, {ages[1]}, who is older?",
        answer=elder,
        steps=f"{high}>{low} {elder}",
        slip_answer=younger,
        slip_steps=f"{low}<{high} {younger}",
    )


def _neighbour(label: str) -> str:
    return LABELS[(LABELS.index(label) + 1) % len(LABELS)]


def _choice(question: str, options: list[str], right: str, head: str) -> Problem:
    """A four-option problem whose procedure ends in the right option's label; the slip marks the next option."""
    label = LABELS[options.index(right)]
    return Problem(
        question=question,
        answer=label,
        steps=f"{head} {label}",
        slip_answer=_neighbour(label),
        slip_steps=f"{head} {label}, next {_neighbour(label)}",
        options=tuple(options),
    )


def sum_choice(rng: random.Random) -> Problem:
    """A one-digit sum with four options; the slip marks the next option."""
    total = rng.randint(3, 9)
    a = rng.randint(1, total - 1)
    options = [total, *rng.sample([n for n in range(1, 10) if n != total], 3)]
    rng.shuffle(options)
    return _choice(f"What is {a}+{total - a}?", [str(n) for n in options], str(total), f"{a}+{total - a}={total}")


def word_choice(rng: random.Random) -> Problem:
    """Find a given word among four options; the slip marks the next option."""
    options = rng.sample(THINGS, 4)
    word = rng.choice(options)
    return _choice(f"{rng.choice(NAMES)} buys {word}. What was bought?", options, word, f"find {word}")


Task = Callable[[random.Random], Problem]

# Which task plays which source; the schema of each source is in demo/sources.py.
TASKS: dict[str, Task] = {
    "mmlu_train": word_choice,
    "syn_qa": sum_choice,
    "natural_reasoning": older,
    "numina_math": add,
    "personaskill_math": take_away,
    "math": largest,
}


def distinct_problems(source: str, count: int, seed: int) -> list[Problem]:
    """`count` problems of one source's task, no two with the same question and options, in a seeded order.

    Raises:
        ValueError: the task has fewer distinct problems than asked for.
    """
    rng = random.Random(f"crossthink-demo/{seed}/{source}")
    seen: dict[tuple[str, tuple[str, ...]], Problem] = {}
    for _ in range(50 * count + 1000):
        if len(seen) == count:
            return list(seen.values())
        problem = TASKS[source](rng)
        seen.setdefault((problem.question, tuple(sorted(problem.options or ()))), problem)
    raise ValueError(f"The demo task of {source} has only {len(seen)} distinct problems; {count} were asked for.")
