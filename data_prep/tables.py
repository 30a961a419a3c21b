"""What `crossthink prep` prints: the plan before, the table of rows and the shares of the blends after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from conf.blend import load_blend, shipped_blends
from conf.prep import PrepConfig
from crossthink.errors import UserError
from data_prep.blends import blend_weights
from data_prep.pool import Pool
from data_prep.sources import get_source
from data_prep.steps import STEPS, Tally


def print_plan(config: PrepConfig, files: Mapping[str, Sequence[Path]]) -> None:
    """What a run would read and write; nothing is read, downloaded or written."""
    console = Console(markup=False)  # a path may hold brackets
    table = Table(*_columns("source", "from", "size", "licence"), title="Would read", title_justify="left")
    for name, paths in files.items():
        source, chosen = get_source(name), config.sources[name]
        size = sum(path.stat().st_size for path in paths)
        where = "\n".join(map(str, paths)) or f"{source.hf_id} @ {chosen.revision or source.revision or 'newest'} (hub)"
        table.add_row(name, where, f"{size / 1e6:,.1f} MB" if paths else "–", chosen.licence or source.licence)
    console.print(table)
    left_out = [name for name in config.sources if name not in files]
    if left_out:
        console.print(f"Left out, as licence={config.licence}: {', '.join(left_out)}")
    console.print("Steps: " + ", ".join(STEPS), highlight=False)
    benchmarks = config.decontaminate.path or "none: the pool will not be decontaminated"
    console.print(f"Benchmarks: {benchmarks}", highlight=False)
    console.print(f"Would write {config.out} (templates {config.question_template}, {config.answer_template})"
                  + "".join(f", export {name}" for name in config.export), highlight=False)  # fmt: skip


def blend_shares(pool: Pool) -> dict[str, dict[str, float] | str]:
    """The share of every source under every named blend; where a blend does not fit the pool, why."""
    found: dict[str, dict[str, float] | str] = {}
    for name in shipped_blends():
        if name in ("custom", "pool"):  # a pool's own proportions are nd's
            continue
        try:
            shares = blend_weights(pool.counts, pool.groups, load_blend(name), "this pool")
        except UserError as error:
            found[name] = str(error)
        else:
            found[name] = {source: float(share) for source, share in shares.items()}
    return found


def print_rows(out: Path, tallies: Mapping[str, Tally]) -> None:
    """Rows in, dropped by reason, out."""
    Console(markup=False).print(_rows_table(out, tallies))


def print_notes(pool: Pool) -> None:
    """The shares of the blends; benchmarks that were not checked; sources left out; where exports and card are."""
    console, facts = Console(markup=False), pool.manifest["decontamination"]
    fitting = {name: shares for name, shares in blend_shares(pool).items() if not isinstance(shares, str)}
    if fitting and len(pool.counts) > 1:
        console.print(_blend_table(list(pool.counts), fitting))
    if facts["absent"]:
        checked = "decontaminated in part" if facts["benchmarks"] else "not decontaminated"
        console.print(
            f"This pool is {checked}: no rows of {', '.join(facts['absent'])} were given (decontaminate.path=FOLDER).",
            style="bold yellow",
        )
    if pool.manifest["left_out_by_licence"]:
        console.print(f"Left out by licence: {', '.join(pool.manifest['left_out_by_licence'])}", highlight=False)
    for name in pool.manifest.get("exports", {}):
        console.print(f"Export {name}: {pool.path / 'exports' / name}", highlight=False)
    console.print(f"Data card: {pool.path / 'card.html'}", highlight=False)


def _columns(*names: str) -> list[Column]:
    """Columns that break a long path or name instead of cutting it off."""
    return [Column(name, overflow="fold") for name in names]


def _rows_table(out: Path, tallies: Mapping[str, Tally]) -> Table:
    table = Table(*_columns("source", "rows in", "dropped", "rows out"), title=f"Pool {out}", title_justify="left")
    table.columns[1].justify = table.columns[3].justify = "right"
    for name, tally in tallies.items():
        dropped = sum(tally.dropped.values(), Counter[str]())
        reasons = "\n".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
        table.add_row(name, f"{tally.rows_in:,}", reasons or "none", f"{tally.rows_out:,}", end_section=True)
    rows_in, rows_out = (sum(getattr(t, key) for t in tallies.values()) for key in ("rows_in", "rows_out"))
    table.add_row("total", f"{rows_in:,}", f"{rows_in - rows_out:,}", f"{rows_out:,}")
    return table


def _blend_table(sources: Sequence[str], blends: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(*_columns("blend", *sources), title="Shares of the blends", title_justify="left")
    for name, shares in blends.items():
        table.add_row(name, *(f"{shares[source]:.4f}" if source in shares else "–" for source in sources))
    return table
