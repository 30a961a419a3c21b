"""Steps about mathematics: how both sides are read, and which rule settles each of their parts."""

from __future__ import annotations

from dataclasses import dataclass, field

from reward_server.explaining.steps import DIFFERENT, EQUAL, NOTE, UNSETTLED, Step, counted, quoted
from reward_server.scoring import bounds, latex, math, structure
from reward_server.scoring.exact import exact
from reward_server.scoring.judge import MAX_CHARS_HERE, Reply, SlowMath
from reward_server.scoring.math import RULES, WORKER
from reward_server.scoring.structure import EITHER, LIST, RATIO, SET, UNION, Fault, Group, Leaf, Named, Node, Words
from reward_server.verdicts import TIMEOUT

SHOWN_COMPARISONS = 12
"""Comparisons of one answer that are shown; a set may need thousands."""
ASKED_AGAIN = 4
"""Parts of an unequal answer of which a worker is asked one at a time which of them differ."""

_KINDS = {
    LIST: "list", SET: "unordered set", UNION: "unordered union", RATIO: "ratio", EITHER: "± pair",
    "()": "tuple ( )", "[]": "interval or list [ ]", "[)": "interval [ )", "(]": "interval ( ]",
}  # fmt: skip


@dataclass
class Comparisons:
    """What was compared, part by part. The pairs of a set are tried one by one until one is equal.

    Attributes:
        first: the results of the first ones, each with a sentence.
        more: how many came after these.
        differ: some pair differs.
        pairs: the first few (ground truth, answer) that are for a worker.
    """

    first: list[tuple[str, str]] = field(default_factory=list)
    more: int = 0
    differ: bool = False
    pairs: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, gold: str, answer: str) -> Comparisons:
        """The comparisons that the rules make between a ground truth and an answer."""
        made = cls()
        math.compare(gold, answer, told=made.add)
        return made

    def add(self, rule: str, gold: Node, answer: Node, result: bool | None) -> None:
        """Take note of one comparison, as `math.compare` tells it."""
        self.differ |= result is False
        if len(self.first) >= SHOWN_COMPARISONS:
            self.more += 1
        elif (told := (_result(result), _sentence(rule, gold, answer, result))) not in self.first:
            self.first.append(told)
        if rule == WORKER and len(self.pairs) <= ASKED_AGAIN:
            assert not isinstance(gold, Group) and not isinstance(answer, Group)  # they are compared by their items
            self.pairs.add((gold.text, answer.text))


def gold_why(gold: str, worker: Reply | None) -> str:
    """What a ground truth was read as, or why it cannot be judged.

    Args:
        gold: the ground truth.
        worker: what a worker said about it; None where none was asked.
    """
    if not gold.strip():
        return "It is empty."
    if why := bounds.refusal(gold):
        return f"It is refused before anything reads it: {why}."
    node = structure.read(gold)
    if isinstance(node, Fault):
        return f"{quoted(gold)} has no structure: {node.why}."
    read = f"{quoted(gold)} is read as {describe(node)}."
    if worker is None:
        return read
    if worker.failure:
        return f"{read} The worker gave no answer ({worker.failure})."
    return f"{read} The worker could {'' if worker.value else 'not '}parse all of it."


def answer_steps(gold: str, answer: str, worker: Reply | None, result: str, part: str) -> list[Step]:
    """How an answer was compared with one (good) ground truth.

    Args:
        gold: the ground truth.
        answer: content of the box.
        worker: what a worker said of the two; None where none was asked.
        result: of the comparison as the verdict took it.
        part: what to call this comparison.
    """
    if why := bounds.refusal(answer):
        return [_step(part, result, f"The answer is refused before any computer algebra sees it: {why}.")]
    if len(answer) > MAX_CHARS_HERE:
        long = f"The answer is longer than {MAX_CHARS_HERE:,} characters, so a worker takes it apart."
        return [_step("structure", NOTE, long), _step(part, result, _conclusion(Comparisons(), worker, result))]
    spelled = latex.clean(answer)
    how = "as it stands" if spelled == answer else f"as {quoted(spelled)}"
    steps = [_step("cleaned", NOTE, f"{quoted(answer)} is read {how}.")]
    given, wanted = structure.read(answer), structure.read(gold)
    if isinstance(given, Fault):
        return [*steps, _step(part, result, f"The answer has no structure: {given.why}.")]
    if isinstance(wanted, Fault):
        return [*steps, _step(part, result, f"The ground truth has no structure: {wanted.why}.")]
    steps.append(_step("structure", NOTE, f"Answer: {describe(given)}. Ground truth: {describe(wanted)}."))
    made = Comparisons.of(gold, answer)
    steps += [_step("comparison", one, why) for one, why in made.first]
    if made.more:
        steps.append(_step("comparison", NOTE, f"{counted(made.more, 'comparison')} more, not shown."))
    return [*steps, _step(part, result, _conclusion(made, worker, result))]


async def asked_again(gold: str, answer: str, slow: SlowMath) -> list[Step]:
    """Of an answer that a worker found unequal and that has several parts for it: which of them differ."""
    if len(answer) > MAX_CHARS_HERE:
        return []
    pairs = Comparisons.of(gold, answer).pairs
    if not 1 < len(pairs) <= ASKED_AGAIN:
        return []
    steps = []
    for wanted, given in sorted(pairs):
        reply = await slow.any_equal((wanted,), given)
        why = f"Asked again about this part alone: {quoted(given, 80)} and {quoted(wanted, 80)}."
        steps.append(_step("comparison", reply.failure or _result(reply.value), why))
    return steps


def describe(node: Node) -> str:
    """`interval [ ), 2 entries`, `the number 5 in cm`, `the words “even”`."""
    if isinstance(node, Group):
        if node.kind.startswith("matrix"):
            return node.kind
        kind = _KINDS.get(node.kind, f"group {' '.join(node.kind)}")
        return f"{kind} of {counted(len(node.items), 'entry', 'entries')}"
    if isinstance(node, Named):
        return f"{quoted(node.name, 40)} given as {describe(node.value)}"
    if isinstance(node, Words):
        return f"the words {quoted(node.text)}"
    if isinstance(node, Leaf):
        unit = "" if node.unit is None else f" in the unit {quoted(node.unit, 40)}"
        return f"the {'expression' if exact(node.text) is None else 'number'} {quoted(node.text)}{unit}"
    return f"the relation {quoted(node.text)}"


def _sentence(rule: str, gold: Node, answer: Node, result: bool | None) -> str:
    if rule == WORKER:
        return f"{_short(answer)} and {_short(gold)}: neither text nor exact fractions settle it; that takes a worker."
    return f"{_short(answer)} {'=' if result else '≠'} {_short(gold)}: {RULES[rule]}."


def _short(node: Node) -> str:
    if isinstance(node, Leaf):
        return quoted(node.text, 80) + ("" if node.unit is None else f" {node.unit}")
    return describe(node) if isinstance(node, Group) else quoted(node.text, 80)


def _conclusion(made: Comparisons, worker: Reply | None, result: str) -> str:
    if worker is not None:
        took = f" ({worker.elapsed_ms:.1f} ms)" if worker.elapsed_ms else ""
        if worker.failure == TIMEOUT:
            return f"The answer used up the worker's CPU time{took}."
        if worker.failure:
            return "The worker failed; nothing is known of the answer."
        return f"The worker (Math-Verify behind guards) says: {'' if worker.value else 'not '}equal{took}."
    if result not in (EQUAL, DIFFERENT):
        return "There is no result: a worker failed at the ground truth."
    if result == EQUAL:
        return "Settled without a worker: every part is equal."
    if made.differ:
        return "Settled without a worker: a part differs."
    return "Settled without a worker."


def _result(value: bool | None) -> str:
    return UNSETTLED if value is None else EQUAL if value else DIFFERENT


def _step(part: str, result: str, why: str) -> Step:
    return Step("answer", part, result, why, "math")
