"""The tables of a sweep as Markdown: ours with intervals and n, the paper's average beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recipes.reporting.paper import BENCHMARK_NAMES, TABLES
from recipes.sweeping.arms import BASE, SINGLES
from recipes.sweeping.claims import RULE, published_row

UNKNOWN = "unknown"
_MEASURES = {"gpr": "GPR mean", "math": "math mean", "mean": "mean"}
_CLAIMED = {
    "mean": "mean accuracy",
    "gpr": "GPR accuracy",
    "math": "math accuracy",
    "tokens_gpr": "tokens of right answers, GPR",
    "tokens_math": "tokens of right answers, math",
}
NOTE = (
    "Accuracy in per cent: the last box of a greedy answer, whatever its format. The means are plain means over the "
    "columns; ± is half of the 95 % t-interval over n seeds (with one seed there is none)."
)


def page(found: Mapping[str, Any]) -> str:
    """The whole Markdown page of a sweep's results, as `recipes.sweep.collect` gives them."""
    parts = [f"# {found['title']}", found["note"], NOTE]
    parts += ["## Table 4: blends", accuracy_table(found, 4, [name for name in found["arms"] if _is_blend(name)])]
    for number in (5, 6, 7):
        rows = _rows_of(found, number)
        if rows:
            parts += [f"## Table {number}: {_title(number)}", accuracy_table(found, number, rows)]
    parts += ["## Table 9: tokens of right answers", tokens_table(found)]
    if found.get("singles"):
        parts += ["## Table 3: single sources", _singles_table(found)]
    if found["claims"]:
        parts += ["## The paper's directions", RULE, claims_table(found["claims"])]
    if found["unfinished"]:
        parts += ["## Not in these tables", "\n".join(f"- {name}: {why}" for name, why in found["unfinished"].items())]
    return "\n\n".join(part for part in parts if part) + "\n"


def accuracy_table(found: Mapping[str, Any], table: int, arms: Sequence[str]) -> str:
    """A row an arm: every benchmark or source, both sides, the mean with its interval, the paper's average."""
    names = found["benchmarks"]
    head = ["arm", *(BENCHMARK_NAMES.get(name, name) for name in names), *_MEASURES.values(), "n", "paper's average"]
    lines = []
    for arm in arms:
        values = found["arms"].get(arm)
        if values is None:
            continue
        cells = [_share(values["benchmarks"].get(name)) for name in names]
        cells += [_share(values[measure]) for measure in _MEASURES]
        lines.append([arm, *cells, str(values["mean"]["n"]), _published(table, arm)])
    return _table(head, lines)


def tokens_table(found: Mapping[str, Any]) -> str:
    """A row an arm: tokens of right answers on both sides, and those of the paper."""
    head = ["arm", "GPR", "math", "n", "paper: GPR", "paper: math"]
    lines = []
    for arm, values in found["arms"].items():
        row = published_row(9, arm)
        paper = ["–" if row is None else f"{row.cells[side]:.0f}" for side in ("gpr", "math")]
        tokens = values["tokens"]
        cells = [_number(tokens[side], 1, 1) for side in ("gpr", "math")]
        lines.append([arm, *cells, str(tokens["gpr"]["n"]), *paper])
    return _table(head, lines)


def claims_table(claims: Sequence[Mapping[str, Any]]) -> str:
    """A row a comparison: the paper's difference, ours with its interval, and the verdict."""
    head = ["Table", "comparison", "measure", "paper", "ours", "95 % interval", "seeds", "questions", "verdict"]
    lines = []
    for one in claims:
        scale, unit = (1, " tokens") if one["measure"].startswith("tokens") else (100, " points")
        interval = one["interval"]
        lines.append(
            [
                str(one["table"]),
                f"{one['one']} − {one['other']}",
                _CLAIMED[one["measure"]],
                f"{one['paper'] * scale:+.2f}{unit}",
                "–" if one["difference"] is None else f"{one['difference'] * scale:+.2f}{unit}",
                "–" if interval is None else f"{interval[0] * scale:+.2f} to {interval[1] * scale:+.2f}",
                str(len(one["seeds"])),
                "–" if one["questions"] is None else str(one["questions"]),
                f"**{one['verdict']}**",
            ]
        )
    return _table(head, lines)


def _singles_table(found: Mapping[str, Any]) -> str:
    """A row a source: accuracy of the policy trained on it alone, and the weight that it gives `score`."""
    lines = []
    for arm in SINGLES:
        name = arm.name.removeprefix("single/")
        if name in found["singles"]:
            lines.append([name, f"{100 * found['singles'][name]:.1f}", _published(3, arm.name)])
    said = "One seed, short runs: the weights of `blend=score`, and no comparison."
    return f"{said}\n\n{_table(['source', 'mean', 'paper'], lines)}"


def _is_blend(name: str) -> bool:
    return name == BASE or published_row(4, name) is not None


def _rows_of(found: Mapping[str, Any], number: int) -> list[str]:
    """The arms of a table with two rows of ours: an arm that is no blend, and its counterpart."""
    own = [name for name, values in found["arms"].items() if values.get("table") == number]
    return [name for arm in own for name in (found["arms"][arm]["counterpart"], arm) if name in found["arms"]]


def _title(number: int) -> str:
    return next(table for table in TABLES if table.number == number).title


def _published(table: int, arm: str) -> str:
    row = published_row(table, arm)
    return UNKNOWN if row is None or row.average is None else f"{row.average:.2f}"


def _share(over: Mapping[str, Any] | None) -> str:
    return "–" if over is None else _number(over, 100, 1)


def _number(over: Mapping[str, Any], scale: float, digits: int) -> str:
    if over["mean"] is None:
        return "–"
    text, interval = f"{over['mean'] * scale:.{digits}f}", over["interval"]
    return text if interval is None else f"{text} ± {(interval[1] - interval[0]) / 2 * scale:.{digits}f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
