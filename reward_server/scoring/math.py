"""When two mathematical answers are the same (docs/rewards.md, Mathematics).

An answer is taken apart here, by its text: brackets, lists, units, names. What remains are pairs of leaves. Most are
numbers or equal strings and are settled on the spot, with exact fractions. The others are for a worker, which runs
the same code with `symbolic.same` for the leaves. Every function answers True, False, or None for "ask a worker".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fractions import Fraction

from reward_server.scoring import intervals, structure, text
from reward_server.scoring.bounds import refusal
from reward_server.scoring.exact import exact
from reward_server.scoring.structure import EITHER, LIST, SET, UNION, Group, Leaf, Named, Node, Relation, Words
from reward_server.scoring.terms import normal_form
from reward_server.scoring.units import agree

LeafSame = Callable[[str, str], "bool | None"]
"""Whether the ground truth's leaf (first) and the answer's leaf (second) are the same."""
LeafGood = Callable[[str], "bool | None"]
"""Whether a leaf of a ground truth can be understood."""
Told = Callable[[str, Node, Node, "bool | None"], None]
"""Hears of a comparison: the rule that settled it (`RULES`), the ground truth's node, the answer's, the result."""

WORKER = "worker"
RULES = {
    "structure": "different structures are never equal",
    "count": "as many entries are needed",
    "intervals": "unions of intervals with rational ends are compared in normal form",
    "words": "words compare as open answers do",
    "units": "units on both sides must agree, and per cent must stand on both",
    "text": "the same text is the same value",
    "fractions": "compared as exact fractions",
    "terms": "sums of terms (polynomials, multiples of π and of square roots) are compared in normal form",
    "base": "a numeral in a base equals only that numeral in that base",
    "names": "names compare letter by letter, case included",
    "unevaluated": "a name, or a sum or product left to do, is not the plain number that is wanted",
    WORKER: "mathematical equality, judged in a worker",
}
"""What can settle the comparison of two nodes, in the order in which it is tried."""

_PLAIN = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?", re.ASCII)
"""Integers and decimals that need no parsing: over half of all mathematical ground truths."""
_CONSTANTS = re.compile(r"[+-]?\\infty|\\emptyset|\\mathbb\{[A-Z]\}|\\ldots")
_SYMBOL = re.compile(r"[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|epsilon|sigma|rho|tau)")
_BASED = re.compile(r"(\d+)_(?:\{(\d+)\}|(\d+))")


def ask_worker(gold: str, answer: str | None = None) -> None:
    """The leaf rule of the fast path: whatever is not settled by text and exact numbers is for a worker."""
    return None


def check_gold(gold: str, leaf_good: LeafGood = ask_worker) -> bool | None:
    """True when a ground truth parses, False when it does not (`bad_gold`), None when a worker must say.

    Depends on nothing but the ground truth, so that an item is bad for every response alike.
    """
    if _PLAIN.fullmatch(gold):
        return True
    if refusal(gold):
        return False
    node = structure.parse(gold)
    return False if node is None else _all(_good(leaf, leaf_good) for leaf in _leaves(node))


def compare(gold: str, answer: str, leaf_same: LeafSame = ask_worker, told: Told | None = None) -> bool | None:
    """True when the answer equals the ground truth, False when it does not, None when a worker must say.

    Args:
        gold: the ground truth.
        answer: content of the box.
        leaf_same: settles what text and exact numbers do not.
        told: hears of every comparison that was made, for an explanation. It changes nothing.
    """
    if told is None and _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(answer):
        return Fraction(gold) == Fraction(answer)  # what the rest would say, in a tenth of the time
    if refusal(answer):
        return False
    wanted, given = structure.parse(gold), structure.parse(answer)
    if wanted is None or given is None:
        return False
    return _same(wanted, given, leaf_same, told)


def _same(gold: Node, answer: Node, leaf: LeafSame, told: Told | None) -> bool | None:
    if isinstance(gold, Named) or isinstance(answer, Named):
        return _same_named(gold, answer, leaf, told)
    if isinstance(gold, Group) or isinstance(answer, Group):
        return _same_groups(gold, answer, leaf, told)
    rule, result = rule_for(gold, answer)
    if rule == WORKER:
        result = leaf(gold.text, answer.text)
    if told is not None:
        told(rule, gold, answer, result)
    return result


def _same_named(gold: Node, answer: Node, leaf: LeafSame, told: Told | None) -> bool | None:
    """`x = 5` is `5`; `x = 5` and `y = 5` are two equations."""
    if isinstance(gold, Named) and isinstance(answer, Named) and gold.name == answer.name:
        return _same(gold.value, answer.value, leaf, told)
    if isinstance(gold, Named | Relation) and isinstance(answer, Named | Relation):
        return _told(told, WORKER, gold, answer, leaf(gold.text, answer.text))
    if isinstance(gold, Named):
        return _same(gold.value, answer, leaf, told)
    assert isinstance(answer, Named)
    return _same(gold, answer.value, leaf, told)


def _same_groups(gold: Node, answer: Node, leaf: LeafSame, told: Told | None) -> bool | None:
    wanted = gold.items if isinstance(gold, Group) else (gold,)
    given = answer.items if isinstance(answer, Group) else (answer,)
    kinds = (gold.kind if isinstance(gold, Group) else LIST, answer.kind if isinstance(answer, Group) else LIST)
    if UNION in kinds and (one := intervals.union(gold)) is not None and (other := intervals.union(answer)) is not None:
        return _told(told, "intervals", gold, answer, one == other)
    if kinds == (UNION, UNION) or (kinds[0] in (SET, EITHER) and kinds[1] in (SET, EITHER, LIST)):
        if len(given) > 4 * len(wanted) + 4:  # the comparison is quadratic
            return _told(told, "count", gold, answer, False)
        return _same_sets(wanted, given, leaf, told)  # a ground truth without order takes a bare list in any order
    if (
        kinds[0] != kinds[1]
        and kinds != (LIST, EITHER)
        and not (LIST in kinds and any(map(structure.is_joined, kinds)))
    ):
        return _told(told, "structure", gold, answer, False)
    if len(wanted) != len(given):
        return _told(told, "count", gold, answer, False)
    orders = (given, given[::-1]) if kinds == (LIST, EITHER) else (given,)
    return _any(_same_sequence(wanted, order, leaf, told) for order in orders)


def _same_sequence(gold: tuple[Node, ...], answer: tuple[Node, ...], leaf: LeafSame, told: Told | None) -> bool | None:
    return _all(_same(one, other, leaf, told) for one, other in zip(gold, answer, strict=True))


def _same_sets(gold: tuple[Node, ...], answer: tuple[Node, ...], leaf: LeafSame, told: Told | None) -> bool | None:
    found = _all(_any(_same(one, other, leaf, told) for other in answer) for one in gold)
    if found is False:
        return False
    return _all([found, *(_any(_same(one, other, leaf, told) for one in gold) for other in answer)])


def _told(told: Told | None, rule: str, gold: Node, answer: Node, result: bool | None) -> bool | None:
    if told is not None:
        told(rule, gold, answer, result)
    return result


def rule_for(gold: Node, answer: Node) -> tuple[str, bool | None]:
    """The rule (of `RULES`) for two nodes that are neither named nor groups, and what it says: None for `WORKER`."""
    if isinstance(gold, Leaf) and isinstance(answer, Leaf):
        return _rule_for_leaves(gold, answer)
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return ("text", True) if gold.text == answer.text else (WORKER, None)
    if isinstance(gold, Words) and isinstance(answer, Words):
        return "words", text.same(gold.text, answer.text)
    return "structure", False


def _rule_for_leaves(gold: Leaf, answer: Leaf) -> tuple[str, bool | None]:
    if not agree(gold.unit, answer.unit):
        return "units", False
    if gold.text == answer.text:
        return "text", True
    wanted, given = exact(gold.text), exact(answer.text)
    if wanted is not None and given is not None:
        return "fractions", wanted == given
    if wanted is None and given is None:
        one, other = normal_form(gold.text), normal_form(answer.text)
        if one is not None and other is not None:
            return "terms", one == other
    if (based := _based(gold.text)) or _based(answer.text):
        # 52 in base eight is asked for in base eight: neither 52 nor 42 is that answer.
        return "base", based == _based(answer.text)
    if _is_name(gold.text) and _is_name(answer.text):
        return "names", gold.text.lstrip("+") == answer.text.lstrip("+")
    if wanted is not None and (_is_name(answer.text) or is_unevaluated(answer.text)):
        return "unevaluated", False
    return WORKER, None


def is_unevaluated(answer: str) -> bool:
    r"""True for an explicit product or sum of two numerals, such as `3\cdot4` or `1+1`; a×10ⁿ is a value.

    Seen in the text, as the parser of the worker simplifies some of them away.
    """
    product = r"[\d)}]\s*(?:\\cdot|\\times|\*)\s*[({]*[-+]?\d"
    for match in re.finditer(product, answer):
        factor = answer[match.end() - 1 :]
        if not re.match(r"10\s*\^", factor):
            return True
    return bool(re.search(r"(?:^|[({])[-+]?\d+(?:\.\d+)?\s*[-+]\s*\d+(?:\.\d+)?(?:$|[)}])", answer))


def _good(node: Leaf | Relation, leaf_good: LeafGood) -> bool | None:
    if not isinstance(node, Leaf):
        return leaf_good(node.text)
    is_value = exact(node.text) is not None or normal_form(node.text) is not None
    return True if is_value or _is_name(node.text) or _based(node.text) else leaf_good(node.text)


def _leaves(node: Node) -> Iterable[Leaf | Relation]:
    if isinstance(node, Group):
        for item in node.items:
            yield from _leaves(item)
    elif isinstance(node, Named):
        yield from _leaves(node.value)
    elif not isinstance(node, Words):
        yield node


def _is_name(leaf: str) -> bool:
    return bool(_SYMBOL.fullmatch(leaf) or _CONSTANTS.fullmatch(leaf))


def _based(leaf: str) -> tuple[str, str] | None:
    match = _BASED.fullmatch(leaf)
    return (match[1].lstrip("0") or "0", match[2] or match[3]) if match else None


def _all(results: Iterable[bool | None]) -> bool | None:
    """Three-valued and: False wins, then "unknown"."""
    unknown = False
    for result in results:
        if result is False:
            return False
        unknown |= result is None
    return None if unknown else True


def _any(results: Iterable[bool | None]) -> bool | None:
    """Three-valued or: True wins, then "unknown"."""
    unknown = False
    for result in results:
        if result:
            return True
        unknown |= result is None
    return None if unknown else False
