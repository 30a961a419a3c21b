"""Unions of intervals with rational or infinite ends: [0,1] ∪ [1,2] is [0,2] (docs/rewards.md, Mathematics)."""

from __future__ import annotations

from fractions import Fraction

from reward_server.scoring.exact import exact
from reward_server.scoring.structure import SET, UNION, Group, Leaf, Node

End = tuple[int, Fraction]
"""(-1, 0) for -∞, (0, x) for x, (1, 0) for ∞: in their order."""
Interval = tuple[End, bool, End, bool]
"""Lower end, whether it belongs to it, upper end, whether it does."""

_INFINITE = {"-\\infty": (-1, Fraction(0)), "\\infty": (1, Fraction(0)), "+\\infty": (1, Fraction(0))}


def union(node: Node) -> tuple[Interval, ...] | None:
    """The disjoint intervals, in order, of an interval or a union; None where an end is no plain number."""
    parts = node.items if isinstance(node, Group) and node.kind == UNION else (node,)
    found: list[Interval] = []
    for part in parts:
        intervals = _points(part) if isinstance(part, Group) and part.kind == SET else _interval(part)
        if intervals is None:
            return None
        found += intervals
    return tuple(_merged(found))


def _interval(node: Node) -> list[Interval] | None:
    if not isinstance(node, Group) or node.kind not in ("()", "(]", "[)", "[]") or len(node.items) != 2:
        return None
    low, high = map(_end, node.items)
    if low is None or high is None or low >= high:
        return None
    return [(low, node.kind[0] == "[", high, node.kind[1] == "]")]


def _points(node: Group) -> list[Interval] | None:
    ends = [_end(item) for item in node.items]
    return None if None in ends else [(end, True, end, True) for end in ends if end is not None]


def _end(node: Node) -> End | None:
    if not isinstance(node, Leaf) or node.unit is not None:
        return None
    if (end := _INFINITE.get(node.text)) is not None:
        return end
    value = exact(node.text)
    return None if value is None else (0, value)


def _merged(intervals: list[Interval]) -> list[Interval]:
    out: list[Interval] = []
    for low, low_in, high, high_in in sorted(intervals, key=lambda one: (one[0], not one[1])):
        if out and (low < out[-1][2] or (low == out[-1][2] and (low_in or out[-1][3]))):
            first, first_in, last, last_in = out[-1]
            out[-1] = (first, first_in, *max((last, last_in), (high, high_in)))
        else:
            out.append((low, low_in, high, high_in))
    return out
