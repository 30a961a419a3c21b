"""What a sweep found over its seeds, beside the paper's: for the sweep's own page, and for a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossthink.errors import UserError
from recipes.reporting.markdown import escape, sweep_parts
from recipes.reporting.paper import BENCHMARK_NAMES, SINGLE, TABLES, published_row
from recipes.reporting.run_data import naming
from recipes.reporting.tables import UNKNOWN, Cell, Direction, Row, SweepView, Table

FORMAT = "crossthink-sweep"
HOLDS, FAILS, UNTOLD = "holds", "does not hold", "cannot be told at this scale"
BASE = "base"  # no arm: what the arms start from
ABSENT = "–"
_MEASURES = {"gpr": "GPR mean", "math": "math mean", "mean": "mean"}
_CLAIMED = {
    "mean": "mean accuracy",
    "gpr": "GPR accuracy",
    "math": "math accuracy",
    "tokens_gpr": "tokens of right answers, GPR",
    "tokens_math": "tokens of right answers, math",
}
_TONES = {HOLDS: "up", FAILS: "down"}
NOTE = (
    "Accuracy in per cent: the last box of a greedy answer, whatever its format. The means are plain means over the "
    "columns; ± is half of the 95 % t-interval over n seeds (with one seed there is none)."
)


def read_view(path: Path) -> SweepView:
    """What a sweep found, from its JSON file.

    Raises:
        UserError: it cannot be read, or is not what `crossthink sweep` writes.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is not the JSON file that crossthink sweep writes (sweep.json, study.json).")
    with naming(path, "JSON", "crossthink sweep"):
        return view(found)


def view(found: Mapping[str, Any]) -> SweepView:
    """Title, note, tables and directions of a sweep's results, as `recipes.sweeping.collect` writes them."""
    arms = {4: [name for name in found["arms"] if _is_blend(name)], **{n: _rows_of(found, n) for n in (5, 6, 7)}}
    made = [claims_table(found["claims"], found["rule"])] if found["claims"] else []
    made += [accuracy_table(found, number, names) for number, names in arms.items() if names]
    if found["arms"]:
        made.append(tokens_table(found))
    if found["singles"]:
        made.append(_singles_table(found))
    return SweepView(found["title"], f"{found['note']} {NOTE}", made, directions(found["claims"]))


def page(found: Mapping[str, Any], picture: str | None) -> str:
    """The Markdown page. `picture` is the file beside it that shows the directions, if there is one."""
    parts = sweep_parts(view(found))
    parts[0] = parts[0].removeprefix("#")
    if picture is not None:
        parts.insert(2, f"![Arms against each other, beside the paper's differences]({picture})")
    if found["unfinished"]:
        parts += ["## Not in these tables"]
        parts += ["\n".join(f"- {escape(name)}: {escape(why)}" for name, why in found["unfinished"].items())]
    return "\n\n".join(parts) + "\n"


def accuracy_table(found: Mapping[str, Any], table: int, arms: Sequence[str]) -> Table:
    """A row an arm: every benchmark or source, both sides, the mean with its interval, the paper's average."""
    names = found["benchmarks"]
    columns = [*(BENCHMARK_NAMES.get(name, name) for name in names), *_MEASURES.values(), "n", "paper's average"]
    rows = []
    for arm in arms:
        values = found["arms"][arm]
        cells = [_over_seeds(values["benchmarks"][name], 100) for name in names]
        cells += [_over_seeds(values[measure], 100) for measure in _MEASURES]
        rows.append(Row(arm, "", [*cells, Cell(str(values["mean"]["n"])), _published(table, arm)]))
    title = "Table 4: blends" if table == 4 else f"Table {table}: {_title(table)}"
    return Table(f"seeds-{table}", title, columns, rows)


def tokens_table(found: Mapping[str, Any]) -> Table:
    """A row an arm: tokens of right answers on both sides, and those of the paper."""
    rows = []
    for arm, values in found["arms"].items():
        row = published_row(9, arm)
        paper = [Cell(ABSENT if row is None else f"{row.cells[side]:.0f}") for side in ("gpr", "math")]
        tokens = values["tokens"]
        cells = [_over_seeds(tokens[side], 1) for side in ("gpr", "math")]
        rows.append(Row(arm, "", [*cells, Cell(str(tokens["gpr"]["n"])), *paper]))
    return Table("seeds-9", "Table 9: tokens of right answers", ["GPR", "math", "n", "paper: GPR", "paper: math"], rows)


def claims_table(claims: Sequence[Mapping[str, Any]], rule: str) -> Table:
    """A row a comparison: the paper's difference, ours with its interval, and the verdict; `rule` says what decides."""
    columns = ["Table", "measure", "paper", "ours", "95 % interval", "seeds", "questions", "verdict"]
    rows = []
    for one in claims:
        scale, unit = (1, " tokens") if _of_lengths(one) else (100, " points")
        interval = one["interval"]
        cells = [
            str(one["table"]),
            _CLAIMED[one["measure"]],
            f"{one['paper'] * scale:+.2f}{unit}",
            ABSENT if one["difference"] is None else f"{one['difference'] * scale:+.2f}{unit}",
            ABSENT if interval is None else f"{interval[0] * scale:+.2f} to {interval[1] * scale:+.2f}",
            str(len(one["seeds"])),
            ABSENT if one["questions"] is None else str(one["questions"]),
        ]
        verdict = Cell(one["verdict"], tone=_tone(one))
        rows.append(Row(f"{one['one']} − {one['other']}", "", [*map(Cell, cells), verdict]))
    return Table("seeds-directions", "The paper's directions", columns, rows, rule)


def directions(claims: Sequence[Mapping[str, Any]]) -> list[Direction]:
    """The differences between arms in accuracy that were measured. Those from the base are several times as large,
    and those of lengths have another unit.
    """
    return [
        Direction(
            f"{one['one']} − {one['other']}" + ("" if one["measure"] == "mean" else f", {_CLAIMED[one['measure']]}"),
            one["paper"],
            one["difference"],
            one["interval"] and tuple(one["interval"]),
            _tone(one),
        )
        for one in claims
        if one["difference"] is not None and one["other"] != BASE and not _of_lengths(one)
    ]


def _of_lengths(claim: Mapping[str, Any]) -> bool:
    return claim["measure"].startswith("tokens")


def _tone(claim: Mapping[str, Any]) -> str:
    return _TONES.get(claim["verdict"], "even")


def _singles_table(found: Mapping[str, Any]) -> Table:
    """A row a source: accuracy of the policy trained on it alone, and the weight that it gives `score`."""
    rows = [
        Row(name, "", [Cell(f"{100 * share:.1f}"), _published(3, f"{SINGLE}{name}")])
        for name, share in found["singles"].items()
    ]
    note = "One seed, short runs: the weights of blend=score, and no comparison."
    return Table("seeds-3", "Table 3: single sources", ["mean", "paper"], rows, note)


def _is_blend(name: str) -> bool:
    return published_row(4, name) is not None


def _rows_of(found: Mapping[str, Any], number: int) -> list[str]:
    """The arms of a table with two rows of ours: an arm that is no blend, and its counterpart."""
    own = [name for name, values in found["arms"].items() if values["table"] == number]
    return [name for arm in own for name in (found["arms"][arm]["counterpart"], arm) if name in found["arms"]]


def _title(number: int) -> str:
    return next(table for table in TABLES if table.number == number).title


def _published(table: int, arm: str) -> Cell:
    row = published_row(table, arm)
    return Cell(UNKNOWN if row is None or row.average is None else f"{row.average:.2f}")


def _over_seeds(over: Mapping[str, Any], scale: float) -> Cell:
    if over["mean"] is None:
        return Cell(ABSENT)
    interval = over["interval"]
    half = () if interval is None else (f"± {(interval[1] - interval[0]) / 2 * scale:.1f}",)
    return Cell(f"{over['mean'] * scale:.1f}", half)
