"""The data card of a pool: one HTML page, self-contained, of what is in it and what went."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from data_prep.blend_sampler import permutation
from data_prep.pool import Pool
from data_prep.rows import PoolRow
from data_prep.sources import SOURCES
from data_prep.steps import STEPS, Tally
from data_prep.tables import blend_shares

SAMPLES = 5  # prompts of every source
UNKNOWN = "–"
BARS = 24  # of a histogram
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:1px solid #ddd}h3{margin-bottom:.3rem}
table{border-collapse:collapse;margin:.8rem 0;font-size:14px}
td,th{padding:.25rem .7rem;border-bottom:1px solid #e5e5e5;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f6f6f6;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;max-height:22rem;overflow:auto}
.warn{background:#fff4d6;padding:.6rem .9rem;border-left:4px solid #d99a00}.small{color:#666;font-size:13px}
figure{display:inline-block;width:300px;margin:0 2rem 1rem 0}figcaption{color:#666;font-size:12px}
svg text{font:11px system-ui,sans-serif;fill:#666}
"""


def page(pool: Pool, tallies: Mapping[str, Tally], title: str, part: str = "") -> str:
    """The page as HTML.

    Args:
        pool: finished, with its manifest.
        tallies: what became of every source's rows.
        title: what the reader calls the pool.
        part: HTML of one more part, which stands before the sources.
    """
    manifest = pool.manifest
    body = [
        f"<h1>{_e(title)}</h1><p class=small>{len(pool):,} verifiable questions, sources: {_e(', '.join(tallies))}. "
        f"Licence: <b>{_e(manifest['licence'])}</b>, the strictest of the sources'. SHA-256 {pool.sha256[:16]}.</p>",
        _contamination(manifest["decontamination"]),
        part,
        "<h2>Sources</h2>",
        _sources(pool, tallies),
        "<h2>What was dropped, and why</h2>",
        _dropped(tallies),
        "<h2>Blends</h2><p>The share of every source that a trainer draws; natural proportions within each group.</p>",
        _blends(pool),
        "<h2>Lengths and samples</h2>",
        *(_source_part(pool, name, manifest["seed"]) for name in tallies),
        "<h2>Prompts</h2>",
        *(f"<h3>{_e(name)}</h3><pre>{_e(fact['text'])}</pre>" for name, fact in manifest["prompts"].items()),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_e(title)}: data card</title>"
        f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )


def _e(value: object) -> str:
    return html.escape(str(value))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; whatever is a number stands to the right."""

    def cell(value: object, tag: str, right: bool) -> str:
        text = f"{value:,}" if isinstance(value, int) else value
        return f"<{tag}{' class=n' if right else ''}>{_e(text)}</{tag}>"

    right = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(head))]
    lines = ["".join(cell(name, "th", to) for name, to in zip(head, right, strict=True))]
    lines += ["".join(cell(value, "td", to) for value, to in zip(row, right, strict=True)) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _is_number(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.replace(".", "").replace("–", "0").isdigit())


def _contamination(facts: Mapping[str, Any]) -> str:
    removed = {name: counts for name, counts in facts["removed"].items() if any(counts.values())}
    warning = ""
    if facts["absent"]:
        what = "Only in part checked" if facts["benchmarks"] else "Not checked"
        warning = f"<p class=warn>{what} for benchmark questions. Absent: {_e(', '.join(facts['absent']))}.</p>"
    if not facts["benchmarks"]:
        return warning
    names = list(facts["benchmarks"])
    rows = [[source, *(counts[name] for name in names)] for source, counts in removed.items()]
    table = _table(["removed from", *names], rows) if rows else "<p>No row of any source stood in them.</p>"
    return f"{warning}<h2>Benchmark questions removed</h2>{table}"


def _sources(pool: Pool, tallies: Mapping[str, Tally]) -> str:
    rows = []
    for name, tally in tallies.items():
        facts, source = pool.manifest["sources"][name], SOURCES[name]
        domain, kind = pool.groups[name]
        rows.append(
            [name, domain, kind, tally.rows_in, pool.counts[name], source.paper_rows or UNKNOWN, facts["licence"],
             facts["revision"] or "local files", source.hf_id]
        )  # fmt: skip
    head = ["source", "domain", "kind", "rows in", "rows out", "the paper's", "licence", "revision", "reader of"]
    return _table(head, rows)


def _dropped(tallies: Mapping[str, Tally]) -> str:
    rows: list[list[object]] = []
    for step in STEPS:
        reasons = dict.fromkeys(reason for tally in tallies.values() for reason in tally.dropped[step])
        for reason in reasons:
            counts = [tally.dropped[step][reason] for tally in tallies.values()]
            rows.append([step, reason, *counts, sum(counts)])
    if not rows:
        return "<p>Nothing.</p>"
    steps = "".join(f"<dt>{_e(step)}</dt><dd>{_e(meaning)}</dd>" for step, meaning in STEPS.items())
    return (
        _table(["step", "reason", *tallies, "sum"], rows)
        + f"<details class=small><summary>What a row must be to pass each step</summary><dl>{steps}</dl></details>"
    )


def _blends(pool: Pool) -> str:
    fitting, notes = [], []
    for name, shares in blend_shares(pool).items():
        if isinstance(shares, str):
            notes.append(f"<p class=small><b>{_e(name)}</b>: {_e(shares)}</p>")
        else:
            fitting.append([name, *(f"{shares[s]:.4f}" if s in shares else UNKNOWN for s in pool.counts)])
    return _table(["blend", *pool.counts], fitting) + "".join(notes)


def _source_part(pool: Pool, name: str, seed: int) -> str:
    columns = {"question, characters": pc.utf8_length, "ground truth, characters": _gold_lengths}
    fields = {"question, characters": "question", "ground truth, characters": "ground_truth"}
    charts = []
    for title, measure in columns.items():
        batches = pool.columns(name, [fields[title]])
        values = np.concatenate([np.asarray(measure(batch.column(0))) for batch in batches])
        charts.append(_histogram(values, title))
    tokens = [np.asarray(batch.column(0).drop_null()) for batch in pool.columns(name, ["prompt_tokens"])]
    if sum(map(len, tokens)):
        charts.append(_histogram(np.concatenate(tokens), "prompt, tokens"))
    chosen = sorted(permutation(pool.counts[name], "card", seed, name)[:SAMPLES])
    samples = "".join(_sample(pool.row(name, int(index))) for index in chosen)
    return f"<h3>{_e(name)}</h3>{''.join(charts)}{samples}"


def _gold_lengths(golds: Any) -> Any:
    return pc.utf8_length(pc.list_flatten(golds))


def _histogram(values: np.ndarray, title: str) -> str:
    """Bars as SVG; the last one holds everything beyond the 99th percentile."""
    top = max(1, int(np.percentile(values, 99)))
    counts, edges = np.histogram(np.minimum(values, top), bins=min(BARS, top), range=(0, top))
    width, height = 280 / len(counts), 70
    bars = "".join(
        f"<rect x={i * width:.1f} y={height - height * n / counts.max():.1f} width={width - 1:.1f} "
        f"height={height * n / counts.max():.1f} fill=#4c78a8><title>{edges[i]:.0f}–{edges[i + 1]:.0f}: {n:,}</title>"
        "</rect>"
        for i, n in enumerate(counts)
    )
    label = f"{title}: median {np.median(values):.0f}, 95 % {np.percentile(values, 95):.0f}, max {values.max():,}"
    return (
        f'<figure><svg viewBox="0 0 300 86" width=300 height=86 role=img><title>{_e(label)}</title>{bars}'
        f"<text x=0 y=83>0</text><text x=280 y=83 text-anchor=end>{top:,}+</text></svg>"
        f"<figcaption>{_e(label)}</figcaption></figure>"
    )


def _sample(row: PoolRow) -> str:
    prompt = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in row.prompt)
    gold = json.dumps(row.ground_truth, ensure_ascii=False)
    return f"<pre>{_e(prompt)}\n\n<b>ground truth</b> {_e(gold)}</pre>"
