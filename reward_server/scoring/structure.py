"""What an answer is made of: a number, a word, a list, a set, a matrix, an equation (docs/rewards.md, Mathematics)."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from reward_server.scoring import latex
from reward_server.scoring.exact import exact
from reward_server.scoring.units import split_unit

MAX_DEPTH = 12
"""Structures inside structures; deeper ones do not parse."""

LIST, SET, UNION, RATIO, EITHER, VECTOR = ",", "{}", "cup", ":", "pm", "\\langle\\rangle"
"""Kinds of `Group` besides brackets ("()", "[)", …), matrices ("matrix 2x3", "determinant 2x2", "norm 1x3"), and the
words that join relations ("and", "or", "and or", …)."""

_RELATIONS = frozenset(["=", "<", ">", "\\leq", "\\geq", "\\neq"])
_MATRIX = re.compile(r"\\begin\{([pbvBV]?)matrix\}(.*)\\end\{\1matrix\}", re.DOTALL)
_NORMS = {"v": "determinant", "V": "norm"}
_AND = re.compile(r"\s*,?\s+(and|or)\s+")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_FUNCTIONS = re.compile(r"(?:arc)?(?:sin|cos|tan)|cot|sec|csc|ln|log|exp|lim|max|min|gcd|lcm|det|mod")
_WORDS = re.compile(r"[^\W\d_]+(?:[\s'’.-]+[^\W\d_]+)*\.?")
# What may stand before "=" as a mere name: x, x_1, AB, f(2), \theta, \angle ABC. A product such as xy is no name.
_NAME = re.compile(
    r"(?:\\(?:text|mathrm)\s*\{[A-Za-z ]+\}|(?:m?\\(?:angle|triangle|overline|vec)\s*)?"
    r"(?:\{?(?:[A-Z]{1,4}|[a-zA-Z])\}?|\\[a-zA-Z]+))(?:_(?:\w|\{\w+\}))?'*(?:\([\w, +\-]*\))?"
)
# (x, y) before "=" names the entries of a tuple.
_NAMES = re.compile(r"\(\s*{0}(?:\s*,\s*{0})+\s*\)".format(r"(?:\\[a-zA-Z]+|[a-zA-Z])(?:_(?:\w|\{\w+\}))?'*"))
_NO_NAME = re.compile(r"\\(?:frac|sqrt|binom|sum|int|prod|pi|infty|ldots|cdot|times)(?![A-Za-z])")


@dataclass(frozen=True)
class Leaf:
    """One expression, cleaned, with its unit cut off (None: no unit)."""

    text: str
    unit: str | None = None


@dataclass(frozen=True)
class Words:
    """A word or a phrase, compared as an open answer is."""

    text: str


@dataclass(frozen=True)
class Group:
    """Several nodes; `kind` says in what brackets and whether their order matters."""

    kind: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Named:
    """`name = value` or `name ∈ value`; `text` is the whole, to compare it as an equation."""

    name: str
    value: Node
    text: str


@dataclass(frozen=True)
class Relation:
    """An equation or inequality that is more than a named value."""

    text: str


@dataclass(frozen=True)
class Fault:
    """In place of a structure: why there is none."""

    why: str


Node = Leaf | Words | Group | Named | Relation


@functools.lru_cache(maxsize=256)  # the samples of a group have one ground truth and few answers
def parse(text: str) -> Node | None:
    """The structure of an answer or ground truth as written; None where it has none (unbalanced, empty parts, …)."""
    node = read(text)
    return None if isinstance(node, Fault) else node


def read(text: str) -> Node | Fault:
    """The structure of an answer or ground truth as written, or why it has none."""
    text = latex.clean(text)
    if not text:
        return Fault("it is empty")
    if not latex.balanced(text):
        return Fault("its brackets do not match")
    return _node(text, 0)


def _node(text: str, depth: int) -> Node | Fault:
    text = latex.unwrap(text)
    if not text:
        return Fault("a part of it is empty")
    if depth > MAX_DEPTH:
        return Fault(f"structures are nested deeper than {MAX_DEPTH}")
    if is_words(text):
        return Words(text)
    if (bracket := latex.enclosed(text)) is not None:
        return _bracketed(*bracket, depth)
    text = join_thousands(text)
    if (parts := _list_items(text)) is not None:
        return _joined(_group(LIST, parts, depth), text)
    if len(parts := latex.split(text, {"\\approx"})) > 1:
        decimal = all(exact(split_unit(part)[0]) is not None for part in parts[1:])
        # "exact ≈ decimal" is the exact value
        return _node(parts[0], depth + 1) if decimal else Fault("what follows ≈ is not a plain number")
    if relation := _relation(text, depth):
        return relation
    if len(parts := latex.split(text, {"\\cup"})) > 1:
        return _group(UNION, parts, depth)
    if len(parts := latex.split(text, {":"})) > 1:
        return _group(RATIO, parts, depth)
    if matrix := _MATRIX.fullmatch(text):
        return _matrix(matrix[2], _NORMS.get(matrix[1], "matrix"), depth)
    if text.count("\\pm") == 1 and "\\mp" not in text:
        return _group(EITHER, [text.replace("\\pm", "+"), text.replace("\\pm", "-")], depth)
    value, unit = split_unit(text)
    value = latex.unwrap(value)
    if unit is not None and (bracket := latex.enclosed(value)) and bracket[0] == "(" and "," not in bracket[1]:
        value = bracket[1]
    return (
        Leaf(re.sub(r"\s*([-+*/=^_(){}])\s*", r"\1", value), unit) if value else Fault("it is a unit without a value")
    )


def is_joined(kind: str) -> bool:
    """True for the kind of relations with "and" or "or" between them; a comma there may stand for either."""
    return kind.partition(" ")[0] in ("and", "or")


def is_words(text: str) -> bool:
    """True for a phrase in plain letters with a word of three letters or more: never a product of variables."""
    if not _WORDS.fullmatch(text):
        return False
    runs = re.findall(r"[^\W\d_]+", text)
    return any(len(run) > 2 and not _FUNCTIONS.fullmatch(run) for run in runs)


def _bracketed(opening: str, inside: str, closing: str, depth: int) -> Node | Fault:
    kind = opening + closing
    if kind == "\\{\\}":
        if len(latex.split(inside, {":", "\\mid", "|"})) > 1:
            return Relation(f"\\{{{inside}\\}}")  # set-builder notation
        return _group(SET, latex.split(inside, {",", ";"}), depth) if inside else Leaf("\\emptyset")
    parts = latex.split(inside, {",", ";"})
    if len(parts) == 1 and kind == "()":
        return _node(inside, depth + 1)
    if "\\" in kind and kind != VECTOR:
        return Fault(f"{opening} does not go with {closing}")
    return _group(kind, parts, depth)


def _list_items(text: str) -> list[str] | None:
    parts = latex.split(_and_to_commas(text), {",", ";"})
    return parts if len(parts) > 1 else None


def join_thousands(text: str) -> str:
    """1,000 is a thousand, outside brackets and with no blank after the comma; (1,000) and 1, 000 are pairs."""
    if "," not in text:
        return text
    out, begin = [], 0
    for match in _THOUSANDS.finditer(text):
        if not any(char in text[: match.start()] for char in "([{"):
            out += [text[begin : match.start()], match[0].replace(",", "")]
            begin = match.end()
    return "".join(out) + text[begin:]


def _and_to_commas(text: str) -> str:
    parts = _AND.split(text)[::2]
    return ", ".join(parts) if len(parts) > 1 and not any(is_words(part) for part in parts) else text


def _joined(items: Node | Fault, text: str) -> Node | Fault:
    """A list with inequalities or equations in it, as written with "and" or "or": they make other statements of it."""
    words = [match[1] for match in _AND.finditer(text)]
    if not words or not isinstance(items, Group) or not any(isinstance(item, Relation) for item in items.items):
        return items
    return Group(" ".join(words), items.items)


def _relation(text: str, depth: int) -> Node | None:
    marks = [token for _, token, level in latex.top_level(text) if level == 0 and token in _RELATIONS | {"\\in"}]
    if not marks:
        return None
    parts = latex.split(text, _RELATIONS | {"\\in"})
    if set(marks) == {"="} or marks == ["\\in"]:
        name = re.sub(r"\s+", "", parts[0])
        if (_NAME.fullmatch(parts[0]) or _NAMES.fullmatch(parts[0])) and not _NO_NAME.search(parts[0]):
            value = _node(parts[-1], depth + 1)
            return None if isinstance(value, Fault) else Named(name, value, text)
    return Relation(text) if all(parts) else None


def _matrix(inside: str, kind: str, depth: int) -> Node | Fault:
    rows = [latex.split(row, {"&"}) for row in latex.split(inside, {"\\\\"}) if row]
    if not rows or len({len(row) for row in rows}) != 1:
        return Fault("the rows of its matrix are not of one length")
    return _group(f"{kind} {len(rows)}x{len(rows[0])}", [cell for row in rows for cell in row], depth)


def _group(kind: str, parts: list[str], depth: int) -> Node | Fault:
    items: list[Node] = []
    for part in parts:
        item = _node(part, depth + 1)
        if isinstance(item, Fault):
            return item
        if kind == SET and isinstance(item, Group) and item.kind == EITHER:
            items.extend(item.items)  # {1 ± √5, -2} has three elements
        else:
            items.append(item)
    return Group(kind, tuple(items))
